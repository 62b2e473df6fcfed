//! Spans to a collector, by OTLP over HTTP, and how a trace goes through the queue.
//!
//! Only spans whose target is [`TARGET`] leave: no log line does, and so no address of a sender or
//! recipient. Failure behaviour: spans wait in a queue of [`SPANS_MAX`]; a collector that is down
//! or slow costs spans, never mail, and is logged when it begins and when it ends.

mod collector;
mod config;
mod context;

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};

use self::collector::Collector;
pub use self::config::{Config, TraceError};
pub use self::context::{follow, link, result, trace_parent};

/// The target of every span that is exported.
pub const TARGET: &str = "postrider::trace";

/// Spans that may wait for the collector, of some 1 KB each; more are dropped.
const SPANS_MAX: usize = 4096;
/// How often what has gathered is sent.
const SEND_INTERVAL: Duration = Duration::from_secs(2);
/// How long the last spans may take when the process stops.
const FLUSH: Duration = Duration::from_secs(5);

/// Who the spans are from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Such as `postrider-worker`.
    pub service: &'a str,
    pub host: &'a str,
}

/// The way to the collector.
#[derive(Debug)]
pub struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// Opens it; `None` when no collector is configured. The caller is in a tokio runtime, which
    /// carries the requests.
    pub fn open(config: &Config, origin: Origin<'_>) -> Result<Option<Self>, TraceError> {
        let Some(endpoint) = config.endpoint()? else { return Ok(None) };
        let headers: HashMap<String, String> = config.headers()?.into_iter().collect();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(config)?)
            .with_endpoint(endpoint)
            .with_headers(headers)
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_MAX)
            .with_scheduled_delay(SEND_INTERVAL)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let by_ratio = Sampler::TraceIdRatioBased(config.sample_ratio);
        let resource = Resource::builder()
            .with_service_name(origin.service.to_owned())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("host.name", origin.host.to_owned()));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_sampler(Sampler::ParentBased(Box::new(by_ratio)))
            .with_span_processor(processor)
            .build();
        Ok(Some(Self { provider }))
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("postrider")
    }

    /// Sends what is left, for at most 5 s.
    pub async fn close(self) {
        let close = move || self.provider.shutdown_with_timeout(FLUSH);
        match tokio::task::spawn_blocking(close).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(event = "spans_lost", %error, "the last spans were not taken");
            }
            Err(error) => tracing::error!(event = "spans_lost", %error, "the export failed"),
        }
    }
}
