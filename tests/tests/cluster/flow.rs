//! Three saturated servers: what is pulled is worked on, and not lost to its puller until
//! `ackWaitSeconds` are over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use queue::{Disposition, HopKind, Queue};
use queue_jetstream::JetQueue;
use tests::jet;
use tests::mail::{self, settlement};
use tests::nats::Cluster;
use tokio::task::JoinSet;

const MESSAGES: usize = 6_000;
const SENDERS: usize = 64;
const WORKERS: usize = 8;
/// Far less than `ackWaitSeconds`.
const LIMIT: Duration = Duration::from_secs(90);

async fn work(queue: &JetQueue, done: &AtomicUsize) -> Result<()> {
    let done_with = settlement(Disposition::Done);
    loop {
        for mut lease in queue.lease(HopKind::Smtp, 16, 64).await? {
            lease.settle(&done_with).await?;
            done.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pulled_is_worked_on() -> Result<()> {
    let servers = Cluster::start(3).await?;
    let config = jet::config(servers.urls(), servers.monitor_urls());
    let queue = jet::open(config, &[HopKind::Smtp]).await?;
    let (queue, done) = (Arc::new(queue), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
        workers.spawn(async move { work(&queue, &done).await });
    }
    let (sent, mut senders) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..SENDERS {
        let (queue, sent) = (Arc::clone(&queue), Arc::clone(&sent));
        senders.spawn(async move {
            loop {
                let n = sent.fetch_add(1, Ordering::SeqCst);
                if n >= MESSAGES {
                    return Ok::<(), anyhow::Error>(());
                }
                let domain = format!("d{}.example", n % 20);
                mail::send(&*queue, &domain, vec![b'x'; 10_000].into()).await?;
            }
        });
    }
    let start = Instant::now();
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    let accepted = start.elapsed();
    let all_done = tests::wait::until("every message", LIMIT, async || {
        (done.load(Ordering::SeqCst) >= MESSAGES).then_some(())
    });
    let all_done = all_done.await;
    let (count, took) = (done.load(Ordering::SeqCst), start.elapsed());
    println!("{MESSAGES} accepted in {accepted:?}, {count} done in {took:?}");
    all_done?;
    ensure!(count == MESSAGES, "{count} ends of {MESSAGES} messages");
    Ok(())
}
