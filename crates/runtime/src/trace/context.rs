//! A trace beyond its process: W3C `traceparent`, kept with the envelope.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const FIELD: &str = "traceparent";

/// What follows from `span` has this as its parent. Where no span is recorded it is that of a new
/// trace which nobody samples: its id is still the same in every log line.
pub fn trace_parent(span: &Span) -> String {
    let mut fields = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut fields);
    fields.remove(FIELD).unwrap_or_else(|| {
        let ids = RandomIdGenerator::default();
        format!("00-{}-{}-00", ids.new_trace_id(), ids.new_span_id())
    })
}

/// Makes a new `span` part of a trace; without a valid `traceparent` it begins one.
pub fn follow(span: &Span, trace_parent: Option<&str>) {
    let Some(trace_parent) = trace_parent.filter(|_| !span.is_disabled()) else { return };
    let fields = HashMap::from([(FIELD.to_owned(), trace_parent.to_owned())]);
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &fields);
    // It fails for a span that has begun, or that no collector gets: then there is no tree to be
    // in.
    let _ = span.set_parent(parent);
}

/// Tells in the current span what its work came to.
pub fn result(name: &'static str, is_failure: bool) {
    let span = Span::current();
    span.record("smtp.result", name);
    if is_failure {
        span.record("otel.status_code", "ERROR");
    }
}

/// Names another span that `span` belongs to, of another trace.
pub fn link(span: &Span, other: &Span) {
    span.add_link(other.context().span().span_context().clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_there_is_an_id_all_the_same() {
        let parents = [trace_parent(&Span::none()), trace_parent(&Span::none())];
        assert_ne!(parents[0], parents[1]);
        for parent in &parents {
            let fields = HashMap::from([(FIELD.to_owned(), parent.clone())]);
            let read = TraceContextPropagator::new().extract_with_context(&Context::new(), &fields);
            assert!(read.span().span_context().is_valid(), "{parent}");
            assert!(!read.span().span_context().is_sampled(), "{parent}");
        }
    }
}
