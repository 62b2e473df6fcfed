//! Nothing is lost: the power goes under load, and what was not synced is gone.
//!
//! 3 rounds, 20 with `POSTRIDER_LONG=1`. Needs root and a loop device.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::load::{Books, Load};
use tests::powercut::{Disk, Order};
use tests::process::Postrider;
use tests::sink::Sink;
use tests::{scenario, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_a_power_cut() -> Result<()> {
    let (seed, rounds) = (scenario::seed(), if scenario::is_long() { 20 } else { 3 });
    println!("seed {seed}, {rounds} rounds");
    let dir = tempfile::tempdir()?;
    let disk = Disk::prepare(&dir.path().join("disk"), 2048, Order::Any)?;
    let data_dir = disk.mount_point().join("data");
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let config = scenario::config(&sink, &data_dir);
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice", "bob"])?;
    let books = Arc::new(Books::default());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cuts = Vec::new();
    for round in 0..rounds {
        postrider.start().await?;
        let load = Load::start(&books, postrider.address("submission"), 8, rng.random());
        let target = books.accepted() + rng.random_range(100..400);
        let limit = Duration::from_secs(60);
        let in_flight = wait::until("a moment with mail in flight", limit, async || {
            let in_flight = books.in_flight.load(Ordering::SeqCst);
            (books.accepted() >= target && in_flight > 0).then_some(in_flight)
        })
        .await?;
        let delivering = sink.in_flight();
        // A process takes a while to die, and a delivery may begin meanwhile.
        cuts.push(Instant::now());
        postrider.kill().await?;
        cuts.push(Instant::now());
        disk.cut()?;
        load.stop().await;
        disk.restore()?;
        println!(
            "round {round}: power cut with {in_flight} accepts and {delivering} deliveries in \
             flight; {} accepted, {} relayed so far",
            books.accepted(),
            sink.count()
        );
    }
    postrider.start().await?;
    let limit = Duration::from_secs(180);
    let balance = scenario::settle(&[&postrider], &data_dir, &sink, &books, &cuts, limit).await?;
    postrider.stop(Duration::from_secs(60)).await?;
    println!("{balance}");
    ensure!(balance.is_clean(), "seed {seed}: {balance}");
    Ok(())
}
