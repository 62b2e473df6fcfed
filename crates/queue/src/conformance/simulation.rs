//! Random operations under faults, with an account of every job.
//!
//! What was committed is in the queue until it was settled as done; it is leased to one at a time
//! and not before its time; what is done stays done. Where the queue itself said that it does not
//! know, both outcomes are right until the next look.

mod ledger;

use std::time::Duration;

use mail_types::Timestamp;

pub use ledger::{Tally, Violation};

use super::mail::{HOUR, Mail, defer, done};
use super::trial::{Trial, soon};
use super::{Fault, Harness, Settings, Step};
use crate::contract::{AcceptError, Lease, SettleError};
use crate::model::{Disposition, Filter, HopKind, JobId, Settlement, Wait};
use crate::random::Random;
use ledger::Ledger;

/// How often a step of unknown outcome is repeated.
const REPEATS: usize = 3;
const DOMAINS: [&str; 4] = ["a.example", "b.example", "c.example", "d.example"];
const TENANTS: [&str; 2] = ["acme", "globex"];

/// The simulation as a check of the suite.
pub async fn random_operations_lose_nothing<H: Harness>() {
    for seed in 1..=10 {
        if let Err(violation) = simulate::<H>(seed, 250).await {
            panic!("seed {seed}: {violation}");
        }
    }
}

/// Does `steps` random operations, then lets everything be delivered and looks at what is left.
pub async fn simulate<H: Harness>(seed: u64, steps: usize) -> Result<Tally, Violation> {
    let settings = Settings { lease_time: Duration::from_secs(60), ..Settings::default() };
    let mut simulation = Simulation {
        trial: Trial::<H>::seeded(seed, settings).await,
        random: Random::new(seed),
        ledger: Ledger::default(),
        hands: Vec::new(),
        last_hand: 0,
    };
    for _ in 0..steps {
        simulation.step().await?;
    }
    simulation.finish().await
}

struct Simulation<H> {
    trial: Trial<H>,
    random: Random,
    ledger: Ledger,
    hands: Vec<Hand>,
    last_hand: u64,
}

/// A lease that we hold, or think we do.
struct Hand {
    number: u64,
    lease: Box<dyn Lease>,
}

impl<H: Harness> Simulation<H> {
    fn now(&self) -> Timestamp {
        self.trial.now()
    }

    async fn step(&mut self) -> Result<(), Violation> {
        match self.random.below(100) {
            0..30 => self.commit().await,
            30..55 => self.lease(3).await?,
            55..80 => self.settle_one().await?,
            80..85 => self.extend_one().await?,
            85..89 => self.release_one(),
            89..97 => {
                let seconds = self.random.below(40);
                self.trial.advance(Duration::from_secs(seconds));
            }
            _ => self.crash().await?,
        }
        Ok(())
    }

    fn arm(&mut self, step: Step) {
        let fault = match self.random.below(20) {
            0 => Fault::Unavailable,
            1 => Fault::UnknownKept,
            2 => Fault::UnknownLost,
            _ => return,
        };
        // A backend without this fault goes without.
        let _ = self.trial.harness.fail_next(step, fault);
    }

    async fn commit(&mut self) {
        let pick = |random: &mut Random| DOMAINS[random.below(4) as usize];
        let mut mail = Mail::to(pick(&mut self.random)).of(TENANTS[self.random.below(2) as usize]);
        if self.random.below(3) == 0 {
            mail = mail.and_to(pick(&mut self.random));
        }
        // A draft is refused only when the store is full, which it never is here.
        let mut draft = self.trial.draft(&mail).await.expect("the store has room");
        self.arm(Step::Commit);
        let mut unknown = false;
        for _ in 0..REPEATS {
            match draft.commit(mail.head.clone(), mail.jobs.clone()).await {
                Ok(()) => return self.ledger.committed(draft.id(), mail.jobs.len()),
                Err(AcceptError::Unknown(_)) => unknown = true,
                Err(_) => break,
            }
        }
        if unknown {
            self.ledger.perhaps_committed(draft.id(), mail.jobs.len());
        }
    }

    async fn lease(&mut self, max: usize) -> Result<(), Violation> {
        let due = self.ledger.surely_due(self.now());
        if due.is_empty() {
            return Ok(());
        }
        let queue = self.trial.queue();
        let leasing = queue.lease(HopKind::Smtp, max, usize::MAX);
        let Ok(leased) = tokio::time::timeout(Duration::from_secs(10), leasing).await else {
            return Err(Violation::NotLeased(due));
        };
        let deadline = self.now() + Duration::from_secs(60);
        for lease in leased.unwrap_or_default() {
            self.last_hand += 1;
            let number = self.last_hand;
            self.ledger.leased(lease.job(), number, self.trial.now(), deadline)?;
            self.hands.push(Hand { number, lease });
        }
        Ok(())
    }

    fn take_hand(&mut self) -> Option<Hand> {
        let count = self.hands.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize).map(|at| self.hands.swap_remove(at))
    }

    fn release_one(&mut self) {
        if let Some(hand) = self.take_hand() {
            self.ledger.given_back(hand.lease.job().id, hand.number);
        }
    }

    async fn extend_one(&mut self) -> Result<(), Violation> {
        let Some(mut hand) = self.take_hand() else { return Ok(()) };
        let now = self.now();
        match hand.lease.extend().await {
            Ok(()) => {
                let deadline = now + Duration::from_secs(60);
                self.ledger.extended(hand.lease.job().id, hand.number, deadline)?;
            }
            Err(SettleError::LeaseLost) => {
                self.ledger.lost(hand.lease.job().id, hand.number, now)?;
            }
            Err(_) => {}
        }
        self.hands.push(hand);
        Ok(())
    }

    fn outcome(&mut self, lease: &dyn Lease) -> Settlement {
        let now = self.now();
        match self.random.below(3) {
            0 => {
                let until = now + Duration::from_secs(self.random.below(90));
                let number = lease.job().attempts + 1;
                defer(until, Wait::Time).after_attempt(number, now, "later")
            }
            1 if !lease.job().envelope.reverse_path.is_null() => done().with_dsn("d.example", now),
            _ => done(),
        }
    }

    async fn settle_one(&mut self) -> Result<(), Violation> {
        let Some(mut hand) = self.take_hand() else { return Ok(()) };
        let settlement = self.outcome(&*hand.lease);
        self.arm(Step::Settle);
        self.settle(&mut hand, &settlement).await
    }

    async fn settle(&mut self, hand: &mut Hand, settlement: &Settlement) -> Result<(), Violation> {
        let now = self.now();
        let mut unknown = false;
        for _ in 0..REPEATS {
            match hand.lease.settle(settlement).await {
                Ok(()) => {
                    return self.ledger.settled(hand.lease.job(), hand.number, settlement);
                }
                Err(SettleError::LeaseLost) if unknown => break,
                Err(SettleError::LeaseLost) => {
                    return self.ledger.lost(hand.lease.job().id, hand.number, now);
                }
                Err(SettleError::Unknown(_)) => unknown = true,
                Err(SettleError::Unavailable(_)) => break,
            }
        }
        if unknown {
            self.ledger.perhaps_settled(hand.lease.job(), settlement);
        } else {
            self.ledger.given_back(hand.lease.job().id, hand.number);
        }
        Ok(())
    }

    async fn crash(&mut self) -> Result<(), Violation> {
        self.trial.harness.crash().await;
        self.hands.clear();
        self.ledger.crashed();
        self.look().await
    }

    /// Compares the queue's list with the account.
    async fn look(&mut self) -> Result<(), Violation> {
        let listed = self.trial.list(Filter::default()).await;
        let listed: Vec<JobId> = listed.iter().map(|summary| summary.id).collect();
        self.ledger.looked(&listed)
    }

    async fn finish(mut self) -> Result<Tally, Violation> {
        self.crash().await?;
        self.trial.advance(HOUR);
        while !self.ledger.surely_due(self.now()).is_empty() {
            soon(self.lease(50)).await?;
            while let Some(mut hand) = self.hands.pop() {
                let settlement = Settlement { disposition: Disposition::Done, ..done() };
                self.settle(&mut hand, &settlement).await?;
            }
        }
        self.look().await?;
        Ok(self.ledger.tally())
    }
}
