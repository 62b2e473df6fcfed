//! The no-loss harness: a cluster under load and faults, and books that must balance.
//!
//! Three nats-servers (R3, `sync_interval: always`), each with its store on a small file system of
//! its own, two ingresses, three workers and an MDA are real processes on loopback. Between each
//! role and each server, and between the servers, is a [`crate::forwarder`] that can be cut.
//! Clients send marked mail of every kind to destinations of every kind, at port 25 and by
//! submission, and book every answer; faults are drawn from a table by a seed, one at a time or
//! two.
//!
//! In the end everything is mended and the queue drains. Then, for every recipient:
//!
//! - of a message that was answered `250`: it was delivered intact, or a DSN for it has come, or
//!   its double bounce was logged;
//! - of what was answered 5xx, or refused before its content, or never finished: nothing came;
//! - of what was answered 4xx after its content: nothing came, unless the commit's outcome was
//!   unknown, which is counted;
//! - a duplicate is explained by a fault at that time;
//! - a connection ended without a reply only where its ingress was killed.
//!
//! A round whose fault falls while no accept, no delivery or no retry is in flight proves nothing:
//! it is void, and drawn again. A run that has too many of these fails.
//!
//! Needs root and loop devices (see [`crate::powercut`]), nats-server and libfaketime
//! (`cargo xtask tools`). The clocks of roles are stepped; those of the servers cannot be.

mod accounts;
mod clients;
mod destinations;
mod fault;
mod judge;
mod letter;
mod logs;
mod mailboxes;
mod report;
mod sabotage;
mod site;
mod strike;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

pub use crate::forwarder::Tampering;
pub use crate::powercut::Order;
pub use accounts::InFlight;
pub use fault::Kind;
pub use judge::{Crime, Finding, Verdict};
pub use report::{Report, Round};
pub use sabotage::Sabotage;

use accounts::Accounts;
use clients::Clients;
use destinations::Destinations;
use fault::{Deck, Fault, Shape};
use judge::Window;
use letter::domain;
use logs::Logs;
use mailboxes::Mailboxes;
use site::{ROLES, SERVERS, Site};

use crate::wait;

/// Until mail of every kind is in flight.
const BUSY_MAX: Duration = Duration::from_secs(60);
const DRAIN_MAX: Duration = Duration::from_secs(240);
const STOP_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(300);
/// In a row.
const VOID_MAX: usize = 5;
const SHAPE: Shape = Shape { roles: ROLES.len(), servers: SERVERS };

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Draws the faults, their victims and the mail.
    pub seed: u64,
    /// Load without faults before the first: after two minutes servers have compacted their logs,
    /// and come back from snapshots.
    pub calm: Duration,
    /// How long faults are drawn.
    pub duration: Duration,
    /// From which of them; not empty.
    pub faults: Vec<Kind>,
    pub sabotage: Option<Sabotage>,
    /// Of the disks that the servers' stores are on.
    pub order: Order,
    /// How long the queue may take to drain.
    pub drain_max: Duration,
    /// Where everything is kept, logs among it, and left in the end; without it a temporary place.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// All faults, and no sabotage.
    pub fn new(seed: u64, duration: Duration) -> Self {
        Self {
            seed,
            calm: Duration::ZERO,
            duration,
            faults: Kind::ALL.to_vec(),
            sabotage: None,
            order: Order::Kept,
            drain_max: DRAIN_MAX,
            dir: None,
        }
    }
}

/// Runs to the end, and tells each round as it is over. Fails when the run itself could not be
/// done; what it has found is in the report.
pub async fn run(options: &Options, mut tell: impl FnMut(&Round)) -> Result<Report> {
    ensure!(!options.faults.is_empty(), "a run needs a kind of faults");
    let temporary = tempfile::tempdir()?;
    let dir = options.dir.as_deref().unwrap_or(temporary.path());
    let accounts = Arc::new(Accounts::default());
    let destinations = Destinations::start(&accounts).await?;
    let site = Site::start(dir, &destinations, options).await?;
    let observer = Arc::new(Mutex::new(Observer::new(&site)));
    let mut observing = JoinSet::new();
    observing.spawn(observe(Arc::clone(&observer), Arc::clone(&accounts)));
    let clients = Clients::start(&accounts, &site.receptions(), options.seed);
    tokio::time::sleep(options.calm).await;
    let mut run = Run {
        site,
        destinations,
        accounts,
        deck: Deck::new(&options.faults),
        rng: StdRng::seed_from_u64(options.seed),
        start: Instant::now(),
        windows: Vec::new(),
        void: 0,
    };
    let mut rounds = Vec::new();
    while run.start.elapsed() < options.duration {
        match run.round(&options.faults).await {
            Ok(round) => rounds.extend(round.inspect(&mut tell)),
            // What is broken on purpose may not go on: it is judged as it is.
            Err(_) if options.sabotage.is_some() => break,
            Err(error) => return Err(error),
        }
    }
    let seconds = run.start.elapsed().as_secs_f64();
    clients.stop().await;
    let (drained, not_drained) = run.drain(options.drain_max).await;
    observing.shutdown().await;
    let verdict = {
        let mut observer = observer.lock().expect("nobody panics holding it");
        observer.look(&run.accounts)?;
        let mut verdict = judge::judge(&run.accounts.snapshot(), &observer.logs, &run.windows);
        for finding in verdict.findings.iter_mut().take(report::TOLD) {
            if let Some(id) = run.accounts.id_of(&finding.token) {
                finding.said = observer.logs.about(&id)?;
            }
        }
        verdict
    };
    if not_drained.is_none() && options.sabotage.is_none() {
        run.site.stop(STOP_MAX).await?;
    }
    Ok(Report {
        seed: options.seed,
        seconds,
        rounds,
        void: run.void,
        drained_seconds: drained.as_secs_f64(),
        not_drained,
        verdict,
    })
}

struct Run {
    site: Site,
    destinations: Destinations,
    accounts: Arc<Accounts>,
    deck: Deck,
    rng: StdRng,
    start: Instant,
    windows: Vec<Window>,
    void: usize,
}

impl Run {
    /// One fault, or two at once, and back. `None` when it was void.
    async fn round(&mut self, kinds: &[Kind]) -> Result<Option<Round>> {
        let kind = self.deck.draw(&mut self.rng);
        let mut faults = vec![Fault::draw(kind, SHAPE, &mut self.rng)];
        if self.rng.random_bool(0.5) {
            faults.extend(faults[0].draw_second(kinds, SHAPE, &mut self.rng));
        }
        let names: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let names = names.join(" + ");
        let hold = faults[0].hold(&mut self.rng);
        self.until_busy().await?;
        let in_flight = self.accounts.in_flight(self.destinations.in_flight());
        let (from, first_window) = (Instant::now(), self.windows.len());
        for fault in &faults {
            self.windows.push(Window { fault: fault.clone(), from, to: Instant::now() });
            self.site.strike(fault).await?;
        }
        tokio::time::sleep(hold).await;
        let mended = Instant::now();
        let mut remedies = Vec::new();
        for fault in &faults {
            let done = self.site.mend(fault).await;
            remedies.extend(done.with_context(|| format!("after {names}"))?);
        }
        for window in &mut self.windows[first_window..] {
            window.to = Instant::now();
        }
        // Who has just come back may not answer: it is asked again after the next round.
        let _ = self.site.give_up_dead().await;
        if in_flight.is_void() {
            self.void += 1;
            ensure!(self.void <= VOID_MAX, "{} rounds were void: {in_flight:?}", self.void);
            return Ok(None);
        }
        Ok(Some(Round {
            at_seconds: from.duration_since(self.start).as_secs_f64(),
            fault: names,
            in_flight,
            held_seconds: mended.duration_since(from).as_secs_f64(),
            recovered_seconds: mended.elapsed().as_secs_f64(),
            remedy: (!remedies.is_empty()).then(|| remedies.join("; ")),
        }))
    }

    /// Until there is something in flight that a fault may hit.
    async fn until_busy(&self) -> Result<()> {
        let flowing = self.accounts.accepted() + 30;
        let busy = wait::until("mail in flight", BUSY_MAX, async || {
            let in_flight = self.accounts.in_flight(self.destinations.in_flight());
            let flows = self.accounts.accepted() >= flowing;
            (flows && !in_flight.is_void()).then_some(())
        });
        match busy.await {
            Ok(()) => Ok(()),
            Err(error) => {
                let in_flight = self.accounts.in_flight(self.destinations.in_flight());
                let pending = self.accounts.pending_count();
                bail!("{error:#}: {in_flight:?}, {pending} recipients under way")
            }
        }
    }

    /// Waits until all that was accepted is somewhere and the queue is empty; says how long it took
    /// and why it did not.
    async fn drain(&self, limit: Duration) -> (Duration, Option<String>) {
        let start = Instant::now();
        let found = wait::until("every recipient", limit, async || {
            let has_dead = self.accounts.pending().iter().any(|key| key.1.ends_with(domain::DEAD));
            if has_dead {
                let _ = self.site.give_up_dead().await;
            }
            (self.accounts.pending_count() == 0).then_some(())
        });
        let result = match found.await {
            Ok(()) => self.site.until_empty(limit).await,
            Err(error) => Err(error),
        };
        let why = result.err().map(|error| {
            let pending = self.accounts.pending();
            format!("{error:#}; {} recipients: {:?}", pending.len(), pending.first())
        });
        (start.elapsed(), why)
    }
}

/// Sees what comes to mailboxes and logs.
struct Observer {
    mailboxes: Mailboxes,
    logs: Logs,
}

impl Observer {
    fn new(site: &Site) -> Self {
        let logs = site.roles.iter().map(|role| role.process.dir().join("postrider.log"));
        Self { mailboxes: Mailboxes::new(site.mda_data()), logs: Logs::new(logs.collect()) }
    }

    fn look(&mut self, accounts: &Accounts) -> Result<()> {
        self.mailboxes.look(accounts)?;
        self.logs.look(accounts)
    }
}

async fn observe(observer: Arc<Mutex<Observer>>, accounts: Arc<Accounts>) {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        // A file that is being moved is found the next time.
        let _ = observer.lock().expect("nobody panics holding it").look(&accounts);
    }
}
