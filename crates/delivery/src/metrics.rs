//! What the role counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct Result {
    pub(crate) result: &'static str,
}

/// The counters of the delivery role; cheap to clone, all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) recipients: Family<Result, Counter>,
    pub(crate) attempts: Counter,
    pub(crate) attempt_seconds: Histogram,
    pub(crate) connections: Counter,
    pub(crate) connections_reused: Counter,
    pub(crate) attempts_in_progress: Gauge,
    pub(crate) hops_down: Gauge,
    pub(crate) tls_handshakes_failed: Counter,
    pub(crate) handover: handover::Metrics,
    pub(crate) double_bounces: Counter,
    pub(crate) leases_lost: Counter,
    pub(crate) settlements_repeated: Counter,
    pub(crate) quarantined: Counter,
}

impl Metrics {
    /// Makes them known under `delivery_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("delivery");
        let metrics = Self {
            recipients: Family::default(),
            attempts: Counter::default(),
            attempt_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 10)),
            connections: Counter::default(),
            connections_reused: Counter::default(),
            attempts_in_progress: Gauge::default(),
            hops_down: Gauge::default(),
            tls_handshakes_failed: Counter::default(),
            handover: handover::Metrics::register(registry),
            double_bounces: Counter::default(),
            leases_lost: Counter::default(),
            settlements_repeated: Counter::default(),
            quarantined: Counter::default(),
        };
        metrics.register_in(registry);
        metrics
    }

    fn register_in(&self, registry: &mut Registry) {
        let Self {
            recipients,
            attempts,
            attempt_seconds,
            connections,
            connections_reused,
            attempts_in_progress,
            hops_down,
            tls_handshakes_failed,
            handover: _,
            double_bounces,
            leases_lost,
            settlements_repeated,
            quarantined,
        } = self;
        registry.register("recipients", "Recipients by result", recipients.clone());
        registry.register("attempts", "Attempts to deliver a job", attempts.clone());
        registry.register(
            "attempt_seconds",
            "How long attempts took, in seconds",
            attempt_seconds.clone(),
        );
        registry.register("connections", "Connections made", connections.clone());
        registry.register(
            "connections_reused",
            "Transactions on a connection made for an earlier one",
            connections_reused.clone(),
        );
        registry.register(
            "attempts_in_progress",
            "Attempts being made now",
            attempts_in_progress.clone(),
        );
        registry.register(
            "hops_down",
            "Next hops that could not be reached when last tried",
            hops_down.clone(),
        );
        registry.register(
            "tls_handshakes_failed",
            "Handshakes that failed; opportunistic ones went on in clear",
            tls_handshakes_failed.clone(),
        );
        registry.register(
            "double_bounces",
            "Recipients given up of whom nobody could be told",
            double_bounces.clone(),
        );
        registry.register("leases_lost", "Leases lost during an attempt", leases_lost.clone());
        registry.register(
            "settlements_repeated",
            "Outcomes that the queue did not record at the first try",
            settlements_repeated.clone(),
        );
        registry.register("quarantined", "Jobs with unreadable content", quarantined.clone());
    }
}
