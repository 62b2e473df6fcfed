//! A queue in memory whose clock and faults a test decides.
//!
//! It keeps the whole contract. "Durable" is what survives [`SimulatedQueue::crash`]: encoded
//! records, as on a disk. Leases, gates of next hops and unfinished drafts do not. The same seed
//! and the same calls give the same ids, faults and outcomes.

mod clock;
mod draft;
mod faults;
mod lease;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use mail_types::{Envelope, QueueId, Timestamp};

pub use clock::VirtualClock;
pub use faults::{Fault, Rates, Step};

use crate::contract::{
    AcceptError, Acted, Admission, Content, ContentError, Draft, Lease, Queue, QueueError,
};
use crate::model::{Action, Filter, HopKind, Job, JobId, JobSummary, NextHop, Stats};
use crate::schedule::{Leased, Usage};
use draft::SimulatedDraft;
use lease::SimulatedLease;
use store::Store;

/// How often a waiting lease looks at a clock that may have been moved by hand.
const LOOK: Duration = Duration::from_millis(2);
/// Jobs that a list reads at once.
const PAGE: usize = 64;

/// What the store is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub lease_time: Duration,
    /// Octets at which mail from outside is refused.
    pub limit_bytes: u64,
    /// Octets beyond the limit that follow-ups and forwards may use.
    pub reserve_bytes: u64,
    /// What a tenant may have in the queue.
    pub quota: Usage,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_time: Duration::from_secs(900),
            limit_bytes: 1 << 30,
            reserve_bytes: 64 << 20,
            quota: Usage { messages: u64::MAX, bytes: u64::MAX },
        }
    }
}

/// A queue in memory. Clones are the same queue.
#[derive(Clone)]
pub struct SimulatedQueue {
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Store>,
    changed: tokio::sync::Notify,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl SimulatedQueue {
    /// An empty queue. `clock` is [`VirtualClock::reader`], or the real time.
    pub fn new(
        seed: u64,
        settings: Settings,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let store = Mutex::new(Store::new(seed, settings));
        let changed = tokio::sync::Notify::new();
        Self { shared: Arc::new(Shared { store, changed, clock: Box::new(clock) }) }
    }

    /// Loses everything that is not durable, and starts again. Drafts and leases from before are
    /// void.
    pub fn crash(&self) {
        self.shared.lock().crash(self.shared.now());
        self.shared.changed.notify_waiters();
    }

    /// Makes the next `step` fail. Faults of one step are used in the order in which they were
    /// given.
    pub fn fail_next(&self, step: Step, fault: Fault) {
        self.shared.lock().faults.fail_next(step, fault);
    }

    /// Makes steps fail at random.
    pub fn fail_randomly(&self, rates: Rates) {
        self.shared.lock().faults.set_rates(rates);
    }

    /// Damages the content of a message for good. Returns whether it is there.
    pub fn damage(&self, message: QueueId) -> bool {
        self.shared.lock().damage(message)
    }

    /// Gives no more leases: those who wait get [`QueueError::Closed`].
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_waiters();
    }

    fn lease_of(&self, leased: &Leased<()>) -> Option<Box<dyn Lease>> {
        let store = self.shared.lock();
        // A job that was leased has its records: both change under one lock.
        let job = store.job(leased.token.job())?;
        let epoch = store.epoch();
        drop(store);
        Some(SimulatedLease::boxed(Arc::clone(&self.shared), epoch, leased, job))
    }

    fn lease_at_once(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Leased<()>>, QueueError> {
        let mut store = self.shared.lock();
        if store.closed {
            return Err(QueueError::Closed);
        }
        store.faults.ask(Step::Lease).map_err(QueueError::Unavailable)?;
        Ok(store.lease(kind, max, per_hop, self.shared.now()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

#[async_trait]
impl Queue for SimulatedQueue {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        let mut store = self.shared.lock();
        store.admit(admission, &envelope.tenant, 0)?;
        let id = store.new_id(&envelope);
        let epoch = store.epoch();
        drop(store);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(SimulatedDraft::new(shared, epoch, id, envelope, admission)))
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        loop {
            let leased = self.lease_at_once(kind, max, per_hop)?;
            if !leased.is_empty() || max == 0 {
                return Ok(leased.iter().filter_map(|leased| self.lease_of(leased)).collect());
            }
            // Either way the queue is looked at again.
            let _ = tokio::time::timeout(LOOK, self.shared.changed.notified()).await;
        }
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        let mut store = self.shared.lock();
        if store.closed {
            return Err(QueueError::Closed);
        }
        let leased = store.lease_more(hop, self.shared.now());
        drop(store);
        Ok(leased.and_then(|leased| self.lease_of(&leased)))
    }

    fn hop_down(&self, hop: &NextHop, until: Timestamp) {
        self.shared.lock().schedule.hop_down(hop, until, self.shared.now());
    }

    fn hop_up(&self, hop: &NextHop) {
        self.shared.lock().schedule.hop_up(hop, self.shared.now());
        self.shared.changed.notify_waiters();
    }

    fn list(&self, filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        let shared = Arc::clone(&self.shared);
        let page = move |from| {
            let mut store = shared.lock();
            store.faults.ask(Step::Ask).map_err(QueueError::Unavailable)?;
            let (ids, next) = store.select(from, &filter, shared.now());
            let summaries = ids.iter().filter_map(|&id| store.job(id)).map(|job| job.summary());
            Ok((summaries.collect(), next))
        };
        pages(page)
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        let mut store = self.shared.lock();
        store.faults.ask(Step::Ask).map_err(QueueError::Unavailable)?;
        Ok(store.jobs_of(message, self.shared.now()))
    }

    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError> {
        lease::content(&self.shared, message)
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        let shared = Arc::clone(&self.shared);
        let page = move |from| {
            let mut store = shared.lock();
            store.faults.ask(Step::Ask).map_err(QueueError::Unavailable)?;
            let now = shared.now();
            let (ids, next) = store.select(from, &filter, now);
            let acted = ids.iter().filter_map(|&id| store.act(id, action, now)).collect();
            shared.changed.notify_waiters();
            Ok((acted, next))
        };
        pages(page)
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let mut store = self.shared.lock();
        store.faults.ask(Step::Ask).map_err(QueueError::Unavailable)?;
        Ok(store.stats(self.shared.now()))
    }
}

/// Pages one after the other, until one fails or is the last.
fn pages<T, P>(mut page: P) -> BoxStream<'static, Result<T, QueueError>>
where
    T: Send + 'static,
    P: FnMut(Option<JobId>) -> Result<(Vec<T>, Option<JobId>), QueueError> + Send + 'static,
{
    let mut from = Some(None);
    let pages = stream::iter(std::iter::from_fn(move || {
        let items = match page(from.take()?) {
            Ok((items, next)) => {
                from = next.map(Some);
                items.into_iter().map(Ok).collect()
            }
            Err(error) => vec![Err(error)],
        };
        Some(stream::iter(items))
    }));
    pages.flatten().boxed()
}
