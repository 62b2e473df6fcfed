//! What the log counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Register once, before the queue is opened; the values are shared by clones.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) records: Counter,
    pub(crate) syncs: Counter,
    pub(crate) failed_batches: Counter,
    pub(crate) batch_records: Histogram,
    pub(crate) quarantined: Counter,
    pub(crate) moved_messages: Counter,
    pub(crate) store_bytes: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            records: Counter::default(),
            syncs: Counter::default(),
            failed_batches: Counter::default(),
            batch_records: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            quarantined: Counter::default(),
            moved_messages: Counter::default(),
            store_bytes: Gauge::default(),
        }
    }
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("queue_log");
        registry.register("records", "Records made durable", self.records.clone());
        registry.register("syncs", "Syncs of the log", self.syncs.clone());
        registry.register(
            "failed_batches",
            "Batches that could not be written or synced",
            self.failed_batches.clone(),
        );
        registry.register(
            "batch_records",
            "Records that shared one sync",
            self.batch_records.clone(),
        );
        registry.register(
            "quarantined",
            "Damaged places of the log that were set aside",
            self.quarantined.clone(),
        );
        registry.register(
            "moved_messages",
            "Messages whose content was copied out of an old segment",
            self.moved_messages.clone(),
        );
        registry.register_with_unit(
            "store",
            "Size of the store",
            Unit::Bytes,
            self.store_bytes.clone(),
        );
    }
}
