//! Partitions go from worker to worker while an operator looks: what is listed is all there is, and
//! what is held is held, whoever has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::exposition::Exposition;
use tests::flood::{self, Recipients};
use tests::mesh::{Mesh, Size};
use tests::process::Postrider;
use tests::sink::Sink;
use tests::wait;

const MESSAGES: usize = 2000;
const LIMIT: Duration = Duration::from_secs(60);
/// How often a worker goes and comes back.
const ROUNDS: usize = 3;

async fn count(process: &Postrider) -> Result<usize> {
    Ok(process.cli(&["queue", "list", "--output", "json"]).await?.lines().count())
}

/// Lists again and again while the other worker goes and comes; every list has all.
async fn list_while_it_moves(stays: &Postrider, moves: &mut Postrider) -> Result<usize> {
    let lists = AtomicUsize::new(0);
    let moving = async {
        for round in 1..=ROUNDS {
            moves.stop(LIMIT).await?;
            moves.start().await?;
            // It has a share again when it counts messages of its own.
            wait::until("a partition to come back", LIMIT, async || {
                let metrics = Exposition::of(moves).await.ok()?;
                (metrics.sum("postrider_queue_messages", "") > 0.0).then_some(())
            })
            .await?;
            wait::until("a list", LIMIT, async || {
                (lists.load(Ordering::SeqCst) >= round).then_some(())
            })
            .await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let listing = async {
        loop {
            let listed = count(stays).await?;
            let number = lists.fetch_add(1, Ordering::SeqCst);
            ensure!(listed == MESSAGES, "list {number} has {listed} of {MESSAGES} jobs");
        }
    };
    // Cancel-safe: a list that is cut off is not counted.
    tokio::select! {
        moved = moving => moved?,
        listed = listing => return listed,
    }
    Ok(lists.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_all_while_partitions_move() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // Nobody takes anything: all of it stays in the queue.
    let sink = Sink::with_verdict(Arc::new(|_| Some("451 4.3.0 later"))).await?;
    let size = Size { servers: 1, ingresses: 1, workers: 2, ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    let recipients: Recipients = Arc::new(|n| vec![format!("u{n}@d{}.test", n % 20)]);
    let address = mesh.ingresses[0].address("submission");
    flood::send(address, 8, 0..MESSAGES, &recipients).await?;
    let [stays, moves] = &mut mesh.workers[..] else { unreachable!("two workers") };
    wait::until("all in the list", LIMIT, async || {
        (count(stays).await.ok()? == MESSAGES).then_some(())
    })
    .await?;
    stays.cli(&["queue", "hold", "--all"]).await?;
    wait::until("all held", LIMIT, async || {
        stays.cli(&["queue", "hold", "--all"]).await.ok()?;
        let held =
            stays.cli(&["queue", "list", "--phase", "held", "--output", "json"]).await.ok()?;
        (held.lines().count() == MESSAGES).then_some(())
    })
    .await?;
    let lists = list_while_it_moves(stays, moves).await?;
    println!("{lists} lists while partitions went and came {ROUNDS} times");
    stays.cli(&["queue", "cancel", "--silently", "--all"]).await?;
    ensure!(count(stays).await? == 0, "something is left");
    mesh.stop(LIMIT).await
}
