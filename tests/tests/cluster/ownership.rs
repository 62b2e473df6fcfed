//! Partitions: balanced, handed over at once by who leaves, and taken from who died.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use queue::{Disposition, HopKind, Queue};
use queue_jetstream::{Config, JetQueue};
use tests::jet;
use tests::mail::{self, settlement};
use tests::nats::Server;
use tests::wait;

const PARTITIONS: usize = 8;

async fn member(server: &Server) -> Result<Arc<JetQueue>> {
    let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    let config = Config { partitions: 8, ..config };
    Ok(Arc::new(jet::open(config, &[HopKind::Smtp]).await?))
}

/// Waits until every partition has exactly one owner and shares differ by one at most.
async fn balanced(members: &[&Arc<JetQueue>], limit: Duration) -> Result<Duration> {
    let start = Instant::now();
    wait::until("even shares", limit, async || {
        let shares: Vec<Vec<String>> = members.iter().map(|member| member.partitions()).collect();
        let mut all = shares.concat();
        all.sort();
        let count = all.len();
        all.dedup();
        let (least, most) =
            (shares.iter().map(Vec::len).min()?, shares.iter().map(Vec::len).max()?);
        (count == PARTITIONS && all.len() == PARTITIONS && most - least <= 1).then_some(())
    })
    .await?;
    Ok(start.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_follow_their_owners() -> Result<()> {
    let server = Server::start().await?;
    let first = member(&server).await?;
    balanced(&[&first], Duration::from_secs(20)).await?;
    let second = member(&server).await?;
    let third = member(&server).await?;
    let joined = balanced(&[&first, &second, &third], Duration::from_secs(20)).await?;
    ensure!(joined < Duration::from_secs(10), "shares were even {joined:?} after two joined");
    let leaving = Arc::clone(&second);
    let start = Instant::now();
    leaving.close().await;
    balanced(&[&first, &third], Duration::from_secs(20)).await?;
    let left = start.elapsed();
    ensure!(left < Duration::from_secs(1), "shares were even {left:?} after one left");
    third.halt();
    let died = balanced(&[&first], Duration::from_secs(40)).await?;
    ensure!(died < Duration::from_secs(20), "shares were even {died:?} after one died");
    println!("joined {joined:?}, left {left:?}, died {died:?}");
    first.close().await;
    Ok(())
}

/// Who gives a partition to a newcomer finishes what is in flight first: until then it is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_leased_is_finished_before_a_partition_goes() -> Result<()> {
    const JOBS: usize = 40;
    let server = Server::start().await?;
    let first = member(&server).await?;
    balanced(&[&first], Duration::from_secs(20)).await?;
    for n in 0..JOBS {
        mail::send(&*first, &format!("d{n}.example"), Bytes::new()).await?;
    }
    let mut leases = Vec::new();
    while leases.len() < JOBS {
        let more = first.lease(HopKind::Smtp, JOBS, JOBS);
        leases.extend(tokio::time::timeout(Duration::from_secs(20), more).await??);
    }
    let second = member(&server).await?;
    // Longer than a handing over takes.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..30 {
        pace.tick().await;
        for lease in &mut leases {
            lease.extend().await?;
        }
    }
    ensure!(second.partitions().is_empty(), "all partitions have something in flight");
    let done = settlement(Disposition::Done);
    for mut lease in leases {
        lease.settle(&done).await?;
    }
    let after = balanced(&[&first, &second], Duration::from_secs(20)).await?;
    ensure!(after < Duration::from_secs(2), "shares were even {after:?} after the last lease");
    first.close().await;
    second.close().await;
    Ok(())
}
