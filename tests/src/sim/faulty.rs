//! A queue that fails at random, around one that does not.
//!
//! It fails as the contract allows: a step did not happen and the caller is told so, or the caller
//! is told that nobody knows. Every failure is counted, and those that may explain a duplicate are
//! kept with the message they fell on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mail_types::{Envelope, QueueId, Timestamp};
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Draft, Filter, Head, HopKind,
    Job, JobSummary, Lease, LeaseReason, NewJob, NextHop, Queue, QueueError, SettleError,
    Settlement, Stats,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::ledger::Unsettled;

/// A step that fails at times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Begin,
    Write,
    Commit,
    Lease,
    LeaseMore,
    Content,
    Extend,
    Settle,
}

impl Step {
    /// Of a million calls, how many fail.
    fn per_million(self) -> u32 {
        match self {
            // A message is written in many pieces.
            Self::Write => 20,
            // A role that cannot lease waits for a second.
            Self::Lease => 5_000,
            Self::Begin | Self::Content | Self::Extend | Self::LeaseMore => 15_000,
            Self::Commit | Self::Settle => 90_000,
        }
    }
}

/// How a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// It did not happen, and the caller is told so.
    Unavailable,
    /// It happened, and the caller is told that it may have.
    UnknownKept,
    /// It did not happen, and the caller is told that it may have.
    UnknownLost,
}

/// The queue; clones are the same.
#[derive(Clone)]
pub struct FaultyQueue {
    real: Arc<dyn Queue>,
    faults: Arc<Faults>,
}

struct Faults {
    state: Mutex<State>,
    /// Leases of jobs that were attempted before.
    retries: AtomicUsize,
}

struct State {
    /// `None` once healed.
    rng: Option<StdRng>,
    done: BTreeMap<(Step, Failure), usize>,
    unsettled: Vec<Unsettled>,
}

impl FaultyQueue {
    pub fn new(real: Arc<dyn Queue>, seed: u64) -> Self {
        let rng = Some(StdRng::seed_from_u64(seed));
        let state = State { rng, done: BTreeMap::new(), unsettled: Vec::new() };
        let faults = Faults { state: Mutex::new(state), retries: AtomicUsize::new(0) };
        Self { real, faults: Arc::new(faults) }
    }

    /// No more failures.
    pub fn heal(&self) {
        self.faults.lock().rng = None;
    }

    /// How often which step failed how.
    pub fn done(&self) -> BTreeMap<(Step, Failure), usize> {
        self.faults.lock().done.clone()
    }

    /// Messages of which an outcome was not recorded at once.
    pub fn unsettled(&self) -> Vec<Unsettled> {
        self.faults.lock().unsettled.clone()
    }

    /// Jobs under way that were attempted before.
    pub fn retries_in_flight(&self) -> usize {
        self.faults.retries.load(Ordering::SeqCst)
    }

    fn wrap(&self, real: Box<dyn Lease>) -> Box<dyn Lease> {
        let retries = usize::from(real.job().attempts > 0);
        self.faults.retries.fetch_add(retries, Ordering::SeqCst);
        Box::new(FaultyLease { real, faults: Arc::clone(&self.faults), retries })
    }
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no role panics holding it")
    }

    fn draw(&self, step: Step) -> Option<Failure> {
        let mut state = self.lock();
        let rng = state.rng.as_mut()?;
        if rng.random_range(0..1_000_000) >= step.per_million() {
            return None;
        }
        let failure = match (step, rng.random_range(0..3)) {
            (Step::Commit | Step::Settle, 0) => Failure::UnknownKept,
            (Step::Commit | Step::Settle, 1) => Failure::UnknownLost,
            _ => Failure::Unavailable,
        };
        *state.done.entry((step, failure)).or_default() += 1;
        Some(failure)
    }

    fn ask(&self, step: Step) -> Result<(), queue::contract::Cause> {
        self.draw(step).map_or(Ok(()), |_| Err("a fault of the test".into()))
    }

    fn note_unsettled(&self, job: &Job) {
        let queue_id = job.id.message.to_string();
        self.lock().unsettled.push(Unsettled { at: Instant::now(), queue_id });
    }
}

#[async_trait]
impl Queue for FaultyQueue {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        self.faults.ask(Step::Begin).map_err(AcceptError::Unavailable)?;
        let real = self.real.begin(envelope, admission).await?;
        Ok(Box::new(FaultyDraft { real, faults: Arc::clone(&self.faults) }))
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        self.faults.ask(Step::Lease).map_err(QueueError::Unavailable)?;
        let leases = self.real.lease(kind, max, per_hop).await?;
        Ok(leases.into_iter().map(|lease| self.wrap(lease)).collect())
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        self.faults.ask(Step::LeaseMore).map_err(QueueError::Unavailable)?;
        let lease = self.real.lease_more(hop).await?;
        Ok(lease.map(|lease| self.wrap(lease)))
    }

    fn hop_down(&self, hop: &NextHop, until: Timestamp) {
        self.real.hop_down(hop, until);
    }

    fn hop_up(&self, hop: &NextHop) {
        self.real.hop_up(hop);
    }

    fn list(&self, filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        self.real.list(filter)
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        self.real.show(message).await
    }

    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError> {
        self.real.content(message).await
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        self.real.act(filter, action)
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        self.real.stats().await
    }
}

struct FaultyDraft {
    real: Box<dyn Draft>,
    faults: Arc<Faults>,
}

#[async_trait]
impl Draft for FaultyDraft {
    fn id(&self) -> QueueId {
        self.real.id()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError> {
        self.faults.ask(Step::Write).map_err(AcceptError::Unavailable)?;
        self.real.write(bytes).await
    }

    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        match self.faults.draw(Step::Commit) {
            None => self.real.commit(head, jobs).await,
            Some(Failure::Unavailable) => Err(AcceptError::Unavailable("a fault".into())),
            Some(Failure::UnknownLost) => Err(AcceptError::Unknown("a fault".into())),
            Some(Failure::UnknownKept) => {
                self.real.commit(head, jobs).await?;
                Err(AcceptError::Unknown("a fault".into()))
            }
        }
    }
}

struct FaultyLease {
    real: Box<dyn Lease>,
    faults: Arc<Faults>,
    /// 1 when the job was attempted before.
    retries: usize,
}

impl FaultyLease {
    /// A DSN whose original cannot be read goes without it: nothing would tell the ledger whose.
    fn is_to_be_returned(&self) -> bool {
        let is_refused = |address: String| address.starts_with("refuse-");
        self.job().recipients.iter().any(|r| is_refused(r.recipient.address.to_string()))
    }
}

#[async_trait]
impl Lease for FaultyLease {
    fn job(&self) -> &Job {
        self.real.job()
    }

    fn reason(&self) -> LeaseReason {
        self.real.reason()
    }

    async fn content(&self) -> Result<Content, ContentError> {
        if !self.is_to_be_returned() {
            self.faults.ask(Step::Content).map_err(ContentError::Unavailable)?;
        }
        self.real.content().await
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        self.faults.ask(Step::Extend).map_err(SettleError::Unavailable)?;
        self.real.extend().await
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        let Some(failure) = self.faults.draw(Step::Settle) else {
            return self.real.settle(settlement).await;
        };
        self.faults.note_unsettled(self.real.job());
        match failure {
            Failure::Unavailable => Err(SettleError::Unavailable("a fault".into())),
            Failure::UnknownLost => Err(SettleError::Unknown("a fault".into())),
            Failure::UnknownKept => {
                self.real.settle(settlement).await?;
                Err(SettleError::Unknown("a fault".into()))
            }
        }
    }

    async fn release(self: Box<Self>) {}
}

/// Dropping the lease within gives the job back.
impl Drop for FaultyLease {
    fn drop(&mut self) {
        self.faults.retries.fetch_sub(self.retries, Ordering::SeqCst);
    }
}
