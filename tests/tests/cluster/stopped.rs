//! A server that is stopped keeps its connections open and answers nothing: who is connected to it
//! goes to another one.

use std::time::{Duration, Instant};

use anyhow::Result;
use queue::HopKind;
use tests::nats::Cluster;
use tests::{jet, mail, wait};

/// To see that nobody answers, to elect others, to come to one of them, and the time of a
/// publish that was under way: far less than the two minutes of the client library.
const LIMIT: Duration = Duration::from_secs(45);
const CURRENT_MAX: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_stops_is_left() -> Result<()> {
    let mut servers = Cluster::start(3).await?;
    let mut config = jet::config(servers.urls(), servers.monitor_urls());
    config.timeout_seconds = 3;
    let queue = jet::open(config, &[HopKind::Smtp]).await?;
    // One of them is the one that the queue is connected to.
    for server in 0..servers.len() {
        servers.stop_process(server)?;
        let stopped = Instant::now();
        wait::until("a message to be accepted", LIMIT, async || {
            mail::send(&queue, "d.example", "x".into()).await.ok()
        })
        .await?;
        println!("without server {server}: accepted after {:?}", stopped.elapsed());
        servers.resume(server)?;
        servers.until_current(CURRENT_MAX).await?;
    }
    Ok(())
}
