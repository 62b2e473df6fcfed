//! What came of reading again what a process had read at its start, as Prometheus tells it of
//! itself.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The last time that something was read again.
#[derive(Clone)]
pub(crate) struct Reloads {
    is_successful: Gauge,
    succeeded_at: Gauge,
}

impl Reloads {
    /// Of the configuration.
    pub(crate) fn of_config(registry: &mut Registry) -> Self {
        let reloads = Self::new();
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration in force is the one that was read last",
            reloads.is_successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read",
            reloads.succeeded_at.clone(),
        );
        reloads
    }

    /// Of the files of domains.
    pub(crate) fn of_domains(registry: &mut Registry) -> Self {
        let reloads = Self::new();
        registry.register(
            "domains_last_reload_successful",
            "Whether the domain table in force is of the files that were read last",
            reloads.is_successful.clone(),
        );
        registry.register(
            "domains_last_reload_success_timestamp_seconds",
            "When the files of the domain table in force were read",
            reloads.succeeded_at.clone(),
        );
        reloads
    }

    fn new() -> Self {
        let reloads = Self { is_successful: Gauge::default(), succeeded_at: Gauge::default() };
        reloads.succeeded();
        reloads
    }

    pub(crate) fn succeeded(&self) {
        self.is_successful.set(1);
        self.succeeded_at.set(runtime::clock::now().unix_ms() / 1000);
    }

    /// What was read before stays in force.
    pub(crate) fn refused(&self) {
        self.is_successful.set(0);
    }
}
