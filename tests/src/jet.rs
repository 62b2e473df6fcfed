//! A queue on the servers of a test, without the roles.

use queue::HopKind;
use queue_jetstream::{Config, JetQueue, Metrics, OpenError};

/// As by default, on these servers and with little room.
pub fn config(urls: Vec<String>, monitor_urls: Vec<String>) -> Config {
    Config {
        replicas: urls.len(),
        urls,
        monitor_urls,
        intake_bytes: 1 << 30,
        reserve_bytes: 256 << 20,
        ..Config::default()
    }
}

/// Serves next hops of these kinds, by the machine's clock.
pub async fn open(config: Config, kinds: &[HopKind]) -> Result<JetQueue, OpenError> {
    JetQueue::open(config, kinds.to_vec(), Metrics::default(), runtime::clock::now).await
}
