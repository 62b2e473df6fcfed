//! A queue on the servers of a test, without the roles.

use std::time::{Duration, Instant};

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

/// How long servers that have just started are waited for: they may lead everything, and know
/// nothing yet of where a stream could be.
const OPEN_MAX: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(200);

/// Serves next hops of these kinds, by the machine's clock. Waits as a role does.
pub async fn open(config: Config, kinds: &[HopKind]) -> Result<JetQueue, OpenError> {
    let deadline = Instant::now() + OPEN_MAX;
    loop {
        let (config, kinds) = (config.clone(), kinds.to_vec());
        match JetQueue::open(config, kinds, Metrics::default(), runtime::clock::now).await {
            Err(error) if error.may_pass() && Instant::now() < deadline => {
                tokio::time::sleep(RETRY).await;
            }
            opened => return opened,
        }
    }
}
