//! The name of a trace, as it travels with a message: W3C Trace Context §3.2, `traceparent`.

use std::fmt;
use std::str::FromStr;

/// A trace and the span in it that caused what follows.
///
/// The spans of a message share the trace: the transaction that accepted it, and each attempt. An
/// OpenTelemetry layer reads it from the span fields `trace_id` and `parent_id`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    sampled: bool,
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent: 00-, 32 hex digits, -, 16 hex digits, -, 2 hex digits")]
pub struct TraceParentError;

impl TraceParent {
    /// The first span of a new trace, from random numbers. Zero means "none" and becomes one.
    pub fn new(trace: u128, span: u64) -> Self {
        Self { trace: trace.max(1), span: span.max(1), sampled: true }
    }

    /// Another span of the same trace.
    pub fn with_span(self, span: u64) -> Self {
        Self { span: span.max(1), ..self }
    }

    /// 32 hex digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// 16 hex digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }

    /// Whether the one who began the trace records it.
    pub fn is_sampled(self) -> bool {
        self.sampled
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Reads any version: a later one may go on after what is known here.
    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits).ok_or(TraceParentError)?;
            let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if !part.bytes().all(lower_hex) {
                return Err(TraceParentError);
            }
            u128::from_str_radix(part, 16).map_err(|_| TraceParentError)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let surplus = version == 0 && parts.next().is_some();
        if version == 0xff || surplus || trace == 0 || span == 0 {
            return Err(TraceParentError);
        }
        let span = u64::try_from(span).map_err(|_| TraceParentError)?;
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: TraceParent = text.parse().unwrap();
        assert_eq!(parent.to_string(), text);
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.with_span(1).span_id(), "0000000000000001");
        assert!(parent.is_sampled());
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more";
        assert!(later.parse::<TraceParent>().is_ok_and(|parent| !parent.is_sampled()));
        assert_eq!(TraceParent::new(0, 0).to_string().parse(), Ok(TraceParent::new(1, 1)));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(TraceParentError), "{text}");
        }
    }
}
