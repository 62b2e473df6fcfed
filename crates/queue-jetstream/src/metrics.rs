//! What the queue counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Register once, before the queue is opened; the values are shared by clones.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) unknown_outcomes: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) moved: Counter,
    pub(crate) parked: Counter,
    pub(crate) quarantined: Counter,
    pub(crate) published_bytes: Counter,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("queue_jetstream");
        registry.register(
            "unknown_outcomes",
            "Publishes that no server answered in time",
            self.unknown_outcomes.clone(),
        );
        registry.register(
            "redelivered",
            "Messages of an intake that came again",
            self.redelivered.clone(),
        );
        registry.register(
            "moved",
            "Messages that outlived their first attempt: their content was copied",
            self.moved.clone(),
        );
        registry.register(
            "parked",
            "Messages that made room in an intake for others",
            self.parked.clone(),
        );
        registry.register(
            "quarantined",
            "Records that could not be read",
            self.quarantined.clone(),
        );
        registry.register(
            "published_bytes",
            "Octets published to streams",
            self.published_bytes.clone(),
        );
    }
}
