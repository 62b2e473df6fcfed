//! Log lines to stderr.
//!
//! A line is in the kernel's hands before the call that logs it returns, in one write: `kill -9`
//! loses none, and what stops reading our lines stops our work, it does not make them vanish.

mod clean;

use std::io::{self, IsTerminal};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{EnvFilter, ParseError, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use self::clean::Clean;
use crate::trace::{Export, TARGET};

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// One JSON object a line, fields at its top level.
    Json,
    /// For people.
    Human,
}

/// What is logged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Without it, for people when stderr is a terminal, else JSON.
    pub format: Option<Format>,
    /// Levels by crate, such as `info,delivery=debug`.
    pub filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: None, filter: "info".to_owned() }
    }
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("filter: {filter:?} is not a filter such as info,delivery=debug")]
    Filter {
        filter: String,
        #[source]
        source: ParseError,
    },
    #[error("logging was started twice")]
    Twice,
}

impl Config {
    /// Checks what the types cannot say.
    pub fn validate(&self) -> Result<(), TelemetryError> {
        self.env_filter().map(drop)
    }

    fn env_filter(&self) -> Result<EnvFilter, TelemetryError> {
        EnvFilter::builder()
            .parse(&self.filter)
            .map_err(|source| TelemetryError::Filter { filter: self.filter.clone(), source })
    }
}

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct Filter(Arc<dyn Fn(EnvFilter) + Send + Sync>);

impl Filter {
    /// Puts another filter in force; that of a configuration that is not valid is not.
    pub fn set(&self, config: &Config) {
        if let Ok(filter) = config.env_filter() {
            (self.0)(filter);
        }
    }

    fn of<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Self {
        // It fails when nobody logs any more.
        Self(Arc::new(move |filter| drop(handle.reload(filter))))
    }
}

/// Starts logging for the process, and with `export` the recording of spans.
pub fn start(config: &Config, export: Option<&Export>) -> Result<Filter, TelemetryError> {
    let (filter, handle) = reload::Layer::new(config.env_filter()?);
    let is_ours = filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET);
    let spans = export.map(|export| {
        let layer = tracing_opentelemetry::layer().with_tracer(export.tracer());
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false);
        layer.with_target(false).with_level(false).with_filter(is_ours)
    });
    let human = io::stderr().is_terminal();
    let format = config.format.unwrap_or(if human { Format::Human } else { Format::Json });
    let registry = tracing_subscriber::registry().with(spans);
    let started = match format {
        Format::Json => registry.with(json(|| Clean(io::stderr())).with_filter(filter)).try_init(),
        Format::Human => {
            registry.with(for_people(|| Clean(io::stderr())).with_filter(filter)).try_init()
        }
    };
    started.map_err(|_| TelemetryError::Twice)?;
    Ok(Filter::of(handle))
}

fn json<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer)
}

/// Without colours: they are control characters, and none of those is let through.
fn for_people<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    fmt::layer().with_ansi(false).with_target(false).with_writer(writer)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged<L>(layer: impl FnOnce(Written) -> L) -> String
    where
        L: tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync,
    {
        let written = Written::default();
        let registry = tracing_subscriber::registry().with(layer(written.clone()));
        tracing::subscriber::with_default(registry, || {
            let helo = "x\"\r\n{\"event\":\"forged\"}\u{1b}[31m\u{9b}1m\u{202e}";
            tracing::info!(event = "accepted", helo, sender = %helo, "{helo}");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_a_client_says_stays_in_its_field() {
        let people = logged(|written| for_people(move || Clean(written.clone())));
        let text = logged(|written| json(move || Clean(written.clone())));
        for line in [&people, &text] {
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let dangerous = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!line.contains(dangerous), "{line:?}");
        }
        assert!(text.contains("\"event\":\"accepted\""), "{text}");
        assert!(!text.contains("{\"event\":\"forged"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["sender"].as_str().unwrap().ends_with("\u{9b}1m\u{202e}"), "{text}");
    }

    #[test]
    fn a_bad_filter_is_named() {
        let config = Config { filter: "info,=x=y".into(), ..Config::default() };
        assert!(matches!(start(&config, None), Err(TelemetryError::Filter { .. })));
    }
}
