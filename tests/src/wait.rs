//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Polls `probe` until it gives a value; fails after `limit`, naming `what` was waited for.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    probe: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    until_every(Duration::from_millis(20), what, limit, probe).await
}

/// The same for a probe that costs something: with this pause between two.
pub async fn until_every<T>(
    pause: Duration,
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        anyhow::ensure!(Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(pause).await;
    }
}
