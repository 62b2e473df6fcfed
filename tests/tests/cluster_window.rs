//! An owner that has as much in hand as it may still does as it is told.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use queue::{HopKind, Queue};
use tests::nats::Server;
use tests::{jet, mail, wait};

const LIMIT: Duration = Duration::from_secs(10);
const WINDOW: usize = 2;

/// It asks for nothing then, so nothing ends what it waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_window_is_full_closes() -> Result<()> {
    let server = Server::start().await?;
    let mut config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    config.window = WINDOW;
    let queue = jet::open(config, &[HopKind::Smtp, HopKind::Mailbox]).await?;
    for _ in 0..WINDOW * 2 {
        mail::send(&queue, "there.example", Bytes::from_static(b"body")).await?;
    }
    wait::until("a full window", LIMIT, async || {
        let stats = queue.stats().await.ok()?;
        (usize::try_from(stats.ready) == Ok(WINDOW)).then_some(())
    })
    .await?;
    tokio::time::timeout(LIMIT, queue.close()).await.context("it does not close")
}
