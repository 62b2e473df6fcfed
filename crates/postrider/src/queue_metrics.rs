//! The queue in numbers, asked when somebody looks.

use std::sync::Arc;

use futures::FutureExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use queue::{Queue, Stats};
use queue_log::LogQueue;

pub(crate) fn register(registry: &mut Registry, queue: &Arc<LogQueue>) {
    registry.register_collector(Box::new(QueueCollector(queue.clone())));
}

struct QueueCollector(Arc<LogQueue>);

impl std::fmt::Debug for QueueCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QueueCollector")
    }
}

impl Collector for QueueCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        // The embedded log answers from memory, so that its future is ready at once.
        let Some(Ok(stats)) = self.0.stats().now_or_never() else { return Ok(()) };
        for (name, help, value) in gauges(&stats) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

fn gauges(stats: &Stats) -> [(&'static str, &'static str, u64); 9] {
    [
        ("queue_messages", "Messages in the queue", stats.messages),
        ("queue_content_bytes", "Octets of content in the queue", stats.content_bytes),
        ("queue_jobs_ready", "Jobs that wait for a worker", stats.ready),
        ("queue_jobs_active", "Jobs that a worker has", stats.active),
        ("queue_jobs_deferred", "Jobs that wait for their time", stats.deferred),
        ("queue_jobs_held", "Jobs that an operator stopped", stats.held),
        ("queue_jobs_quarantined", "Jobs whose content cannot be read", stats.quarantined),
        ("queue_store_bytes", "Octets that the store occupies", stats.store_bytes),
        ("queue_store_limit_bytes", "Octets at which mail is refused", stats.store_limit_bytes),
    ]
}
