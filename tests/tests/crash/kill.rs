//! Nothing is lost: `kill -9` under load at random moments.
//!
//! 10 rounds, 200 with `POSTRIDER_LONG=1`. The seed is printed; `POSTRIDER_SEED` repeats it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::load::{Books, Load};
use tests::process::Postrider;
use tests::sink::Sink;
use tests::{scenario, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_kill_9() -> Result<()> {
    let (seed, rounds) = (scenario::seed(), if scenario::is_long() { 200 } else { 10 });
    println!("seed {seed}, {rounds} rounds");
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("data");
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let mut postrider = Postrider::new(dir.path(), &scenario::config(&sink, &data_dir))?;
    postrider.write_domain("local.test", &["alice", "bob"])?;
    let books = Arc::new(Books::default());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut kills = Vec::new();
    for round in 0..rounds {
        postrider.start().await?;
        let load = Load::start(&books, postrider.address("submission"), 8, rng.random());
        let target = books.accepted() + rng.random_range(20..200);
        let limit = Duration::from_secs(60);
        let in_flight = wait::until("a moment with mail in flight", limit, async || {
            let in_flight = books.in_flight.load(Ordering::SeqCst);
            (books.accepted() >= target && in_flight > 0).then_some(in_flight)
        })
        .await?;
        let delivering = sink.in_flight();
        // A process takes a while to die, and a delivery may begin meanwhile.
        kills.push(Instant::now());
        postrider.kill().await?;
        kills.push(Instant::now());
        load.stop().await;
        println!(
            "round {round}: kill -9 with {in_flight} accepts and {delivering} deliveries in \
             flight; {} accepted, {} relayed so far",
            books.accepted(),
            sink.count()
        );
    }
    postrider.start().await?;
    let limit = Duration::from_secs(180);
    let balance = scenario::settle(&[&postrider], &data_dir, &sink, &books, &kills, limit).await?;
    let code = postrider.stop(Duration::from_secs(60)).await?;
    println!("{balance}");
    ensure!(balance.is_clean(), "seed {seed}: {balance}");
    ensure!(code == Some(0), "exit code {code:?} after SIGTERM");
    Ok(())
}
