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

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct Cause {
    pub(crate) cause: &'static str,
}

/// The counters of the MDA; cheap to clone, all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) recipients: Family<Result, Counter>,
    pub(crate) stored_bytes: Counter,
    pub(crate) already_stored: Counter,
    pub(crate) attempt_seconds: Histogram,
    pub(crate) attempts_in_progress: Gauge,
    pub(crate) disk_failures: Family<Cause, Counter>,
    pub(crate) hops_without_room: Gauge,
    pub(crate) mailboxes_full: Gauge,
    pub(crate) connections: Counter,
    pub(crate) connections_reused: Counter,
    pub(crate) hops_unreachable: Gauge,
    pub(crate) handover: handover::Metrics,
    pub(crate) double_bounces: Counter,
    pub(crate) leases_lost: Counter,
    pub(crate) settlements_repeated: Counter,
    pub(crate) quarantined: Counter,
}

impl Metrics {
    /// Makes them known under `mda_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mda");
        let metrics = Self {
            recipients: Family::default(),
            stored_bytes: Counter::default(),
            already_stored: Counter::default(),
            attempt_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 10)),
            attempts_in_progress: Gauge::default(),
            disk_failures: Family::default(),
            hops_without_room: Gauge::default(),
            mailboxes_full: Gauge::default(),
            connections: Counter::default(),
            connections_reused: Counter::default(),
            hops_unreachable: Gauge::default(),
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
        let m = self.clone();
        registry.register("recipients", "Recipients by result", m.recipients);
        registry.register("stored_bytes", "Octets written to mailboxes", m.stored_bytes);
        registry.register(
            "already_stored",
            "Copies that a repeated job found in their mailbox",
            m.already_stored,
        );
        registry.register(
            "attempt_seconds",
            "How long attempts took, in seconds",
            m.attempt_seconds,
        );
        registry.register(
            "attempts_in_progress",
            "Jobs being delivered now",
            m.attempts_in_progress,
        );
        registry.register("disk_failures", "Steps that failed, by cause", m.disk_failures);
        registry.register(
            "hops_without_room",
            "Hosted domains whose mailboxes lack room",
            m.hops_without_room,
        );
        registry.register(
            "mailboxes_full",
            "Mailboxes that hold their quota or more, as far as is known",
            m.mailboxes_full,
        );
        registry.register("connections", "Connections made to the LMTP server", m.connections);
        registry.register(
            "connections_reused",
            "Transactions on a connection made for an earlier one",
            m.connections_reused,
        );
        registry.register(
            "hops_unreachable",
            "Hosted domains whose LMTP server could not be reached when last tried",
            m.hops_unreachable,
        );
        registry.register(
            "double_bounces",
            "Recipients given up of whom nobody can be told",
            m.double_bounces,
        );
        registry.register("leases_lost", "Jobs that lapsed unsettled", m.leases_lost);
        registry.register(
            "settlements_repeated",
            "Outcomes that were not recorded at once",
            m.settlements_repeated,
        );
        registry.register("quarantined", "Jobs whose content is damaged", m.quarantined);
    }
}
