//! Nothing is lost when roles and servers are killed or stopped under load, or a server is replaced
//! by an empty one; each duplicate has its fault.
//!
//! 7 rounds, 70 with `POSTRIDER_LONG=1`. The seed is printed; `POSTRIDER_SEED` repeats it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::load::{Books, Load};
use tests::mesh::{Mesh, Size};
use tests::sink::Sink;
use tests::{scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Victim {
    Ingress(usize),
    Worker(usize),
    /// Stopped for longer than others wait for it, then on.
    SleepyWorker(usize),
    Mda,
    Server(usize),
    SleepyServer(usize),
    /// Comes back with an empty store.
    ReplacedServer(usize),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_killing_any_process() -> Result<()> {
    let (seed, rounds) = (scenario::seed(), if scenario::is_long() { 70 } else { 7 });
    println!("seed {seed}, {rounds} rounds");
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let mut mesh = Mesh::start(dir.path(), Size::default(), &sink).await?;
    let books = Arc::new(Books::default());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut kills = Vec::new();
    for round in 0..rounds {
        let victim = match round % 7 {
            0 => Victim::Worker(rng.random_range(0..3)),
            1 => Victim::Server(rng.random_range(0..3)),
            2 => Victim::Ingress(rng.random_range(0..2)),
            3 => Victim::SleepyWorker(rng.random_range(0..3)),
            4 => Victim::Mda,
            5 => Victim::SleepyServer(rng.random_range(0..3)),
            _ => Victim::ReplacedServer(rng.random_range(0..3)),
        };
        let loads: Vec<Load> = mesh
            .ingresses
            .iter()
            .map(|ingress| Load::start(&books, ingress.address("submission"), 4, rng.random()))
            .collect();
        let target = books.accepted() + rng.random_range(50..150);
        let in_flight = under_load(&books, target).await?;
        let delivering = sink.in_flight();
        kills.push(Instant::now());
        kill(&mut mesh, victim).await?;
        kills.push(Instant::now());
        // The others go on.
        under_load(&books, books.accepted() + 20).await?;
        if let Victim::SleepyWorker(_) = victim {
            // Longer than a message or a partition is kept for it.
            tokio::time::sleep(Duration::from_secs(12)).await;
        }
        for load in loads {
            load.stop().await;
        }
        restore(&mut mesh, victim).await?;
        kills.push(Instant::now());
        println!(
            "round {round}: {victim:?} killed with {in_flight} accepts and {delivering} deliveries \
             in flight; {} accepted, {} relayed so far",
            books.accepted(),
            sink.count()
        );
    }
    let limit = Duration::from_secs(180);
    let (processes, data) = (mesh.processes(), mesh.mda_data());
    let balance = scenario::settle(&processes, data, &sink, &books, &kills, limit).await?;
    println!("{balance}");
    ensure!(balance.is_clean(), "seed {seed}: {balance}");
    mesh.stop(Duration::from_secs(60)).await
}

async fn under_load(books: &Books, target: usize) -> Result<usize> {
    wait::until("a moment with mail in flight", Duration::from_secs(90), async || {
        let in_flight = books.in_flight.load(Ordering::SeqCst);
        (books.accepted() >= target && in_flight > 0).then_some(in_flight)
    })
    .await
}

async fn kill(mesh: &mut Mesh, victim: Victim) -> Result<()> {
    match victim {
        Victim::Ingress(n) => mesh.ingresses[n].kill().await,
        Victim::Worker(n) => mesh.workers[n].kill().await,
        Victim::SleepyWorker(n) => mesh.workers[n].freeze().await,
        Victim::Mda => mesh.mda.kill().await,
        Victim::Server(n) | Victim::ReplacedServer(n) => mesh.servers.kill(n),
        Victim::SleepyServer(n) => mesh.servers.stop_process(n),
    }
}

async fn restore(mesh: &mut Mesh, victim: Victim) -> Result<()> {
    match victim {
        Victim::Ingress(n) => mesh.ingresses[n].start().await,
        Victim::Worker(n) => mesh.workers[n].start().await,
        Victim::SleepyWorker(n) => mesh.workers[n].thaw().await,
        Victim::Mda => mesh.mda.start().await,
        Victim::Server(n) => {
            mesh.servers.restart(n)?;
            mesh.servers.until_current(LIMIT).await
        }
        Victim::SleepyServer(n) => {
            mesh.servers.resume(n)?;
            mesh.servers.until_current(LIMIT).await
        }
        Victim::ReplacedServer(n) => {
            mesh.servers.replace(n)?;
            mesh.servers.until_current(LIMIT).await
        }
    }
}
