//! The queue in numbers: asked each second, shown when somebody looks.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use queue::{Queue, Stats};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);

/// What was heard last; none before the queue is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<ArcSwapOption<Stats>>);

impl Heard {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let heard = Self::default();
        registry.register_collector(Box::new(QueueCollector(heard.clone())));
        heard
    }

    /// Asks until `stop`.
    pub(crate) async fn keep_fresh(self, queue: Arc<dyn Queue>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let work = async {
            loop {
                ticks.tick().await;
                // Without an answer the numbers would be old: better none.
                self.0.store(queue.stats().await.ok().map(Arc::new));
            }
        };
        stop.run_until_cancelled(work).await;
    }
}

#[derive(Debug)]
struct QueueCollector(Heard);

impl Collector for QueueCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(stats) = self.0.0.load_full() else { return Ok(()) };
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
