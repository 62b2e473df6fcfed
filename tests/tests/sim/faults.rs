//! Nothing is lost: all roles over a queue that fails and crashes, to a sink of whims.
//!
//! 3 seeds, 30 with `POSTRIDER_LONG=1`. The first is printed; `POSTRIDER_SEED` repeats it. The
//! books that prove it are proven themselves: a queue that breaks its contract once is found out.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use queue::Queue;
use queue::simulated::{Settings, SimulatedQueue};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::ledger::Balance;
use tests::load::{Books, Load};
use tests::sim::faulty::FaultyQueue;
use tests::sim::peer::Whimsical;
use tests::sim::saboteur::{Crime, Saboteur};
use tests::sim::{Faults, World};
use tests::sink::Sink;
use tests::{scenario, wait};

const CRASHES: usize = 6;
const SESSIONS: usize = 8;
const LIMIT: Duration = Duration::from_secs(90);

fn simulated(seed: u64) -> SimulatedQueue {
    SimulatedQueue::new(seed, Settings::default(), runtime::clock::now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_faults_anywhere() -> Result<()> {
    let (first, rounds) = (scenario::seed(), if scenario::is_long() { 30 } else { 3 });
    for seed in (0..rounds).map(|n| first.wrapping_add(n)) {
        let balance = Round::start(seed).await?.run().await?;
        ensure!(balance.is_clean(), "seed {seed}: {balance}");
    }
    Ok(())
}

/// One seed: a world, what does it harm, and the books.
struct Round {
    seed: u64,
    simulated: SimulatedQueue,
    queue: FaultyQueue,
    sink: Sink,
    peer: Arc<Whimsical>,
    books: Arc<Books>,
    world: World,
    crashes: Vec<Instant>,
    _dir: tempfile::TempDir,
}

impl Round {
    async fn start(seed: u64) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let simulated = simulated(seed);
        let queue = FaultyQueue::new(Arc::new(simulated.clone()), seed);
        let (sink, peer) = Whimsical::start(seed).await?;
        let shared: Arc<dyn Queue> = Arc::new(queue.clone());
        let world = World::start(&shared, sink.address(), dir.path())?;
        let (books, crashes) = (Arc::default(), Vec::new());
        Ok(Self { seed, simulated, queue, sink, peer, books, world, crashes, _dir: dir })
    }

    async fn run(mut self) -> Result<Balance> {
        println!("seed {}", self.seed);
        let mut rng = StdRng::seed_from_u64(self.seed);
        let load = Load::start(&self.books, self.world.submission(), SESSIONS, rng.random());
        for _ in 0..CRASHES {
            self.crash(self.books.accepted() + rng.random_range(20..80)).await?;
        }
        load.stop().await;
        self.queue.heal();
        self.peer.heal();
        self.drain().await?;
        let unsettled = self.queue.unsettled();
        let faults = Faults { crashes: &self.crashes, unsettled: &unsettled };
        let balance = self.world.balance(&self.books, &self.sink, &faults)?;
        println!("  queue: {:?}\n  sink: {:?}\n  {balance}", self.queue.done(), self.peer.done());
        self.world.stop().await?;
        Ok(balance)
    }

    /// Crashes the queue when so many messages were accepted, with mail in flight everywhere: a
    /// crash that hits nothing proves nothing.
    async fn crash(&mut self, accepted: usize) -> Result<()> {
        let in_flight = || {
            let accepts = self.books.in_flight.load(Ordering::SeqCst);
            let (deliveries, retries) = (self.sink.in_flight(), self.queue.retries_in_flight());
            let all = accepts > 0 && deliveries > 0 && retries > 0;
            all.then_some((accepts, deliveries, retries))
        };
        let moment = wait::until("a moment with mail in flight", LIMIT, async || {
            let counted = in_flight().filter(|_| self.books.accepted() >= accepted)?;
            let before = Instant::now();
            self.simulated.crash();
            Some((before, counted))
        });
        let (before, (accepts, deliveries, retries)) = moment.await?;
        // It takes a while, and a delivery may begin meanwhile: from its begin to its end.
        self.crashes.extend([before, Instant::now()]);
        println!(
            "  crash with {accepts} accepts, {deliveries} deliveries and {retries} retries in \
             flight; {} accepted so far",
            self.books.accepted()
        );
        Ok(())
    }

    async fn drain(&self) -> Result<()> {
        wait::until("an empty queue", LIMIT, async || is_empty(&self.simulated).await).await
    }
}

async fn is_empty(queue: &SimulatedQueue) -> Option<()> {
    let stats = queue.stats().await.ok()?;
    (stats.messages == 0).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_ok_is_found_out() -> Result<()> {
    let balance = balance_after(Crime::FalseOk).await?;
    ensure!(balance.lost.len() == 1 && balance.unexplained.is_empty(), "{balance}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_deferral_is_found_out() -> Result<()> {
    let balance = balance_after(Crime::DropDeferral).await?;
    ensure!(balance.lost.len() == 1 && balance.unexplained.is_empty(), "{balance}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubled_lease_is_found_out() -> Result<()> {
    let balance = balance_after(Crime::DoubleLease).await?;
    ensure!(balance.unexplained.len() == 1 && balance.lost.is_empty(), "{balance}");
    Ok(())
}

/// What the books say after one crime and no fault.
async fn balance_after(crime: Crime) -> Result<Balance> {
    let dir = tempfile::tempdir()?;
    balance_in(dir.path(), crime).await
}

async fn balance_in(dir: &Path, crime: Crime) -> Result<Balance> {
    let seed = scenario::seed();
    let simulated = simulated(seed);
    let saboteur = Saboteur::new(Arc::new(simulated.clone()), crime);
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let queue: Arc<dyn Queue> = Arc::new(saboteur.clone());
    let world = World::start(&queue, sink.address(), dir)?;
    let books = Arc::new(Books::default());
    let load = Load::start(&books, world.submission(), 4, seed);
    wait::until("the crime", LIMIT, async || {
        (saboteur.has_struck() && books.accepted() >= 40).then_some(())
    })
    .await?;
    load.stop().await;
    let balance = wait::until("the ledger to object", LIMIT, async || {
        is_empty(&simulated).await?;
        let balance = world.balance(&books, &sink, &Faults::default()).ok()?;
        (!balance.is_clean()).then_some(balance)
    })
    .await?;
    world.stop().await?;
    Ok(balance)
}
