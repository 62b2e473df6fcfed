//! The checkers catch backends that break the contract: each wrapper breaks it in one way.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mail_types::{Envelope, QueueId, Timestamp};
use queue::conformance::simulation::{Violation, simulate};
use queue::conformance::{Fault, Harness, Settings, Step, Support, VirtualClock};
use queue::simulated::SimulatedQueue;
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Disposition, Draft, Filter, Head,
    HopKind, Job, JobSummary, Lease, LeaseReason, NewJob, NextHop, Queue, QueueError, SettleError,
    Settlement, Stats,
};
use tokio::sync::Mutex;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Crime {
    /// Says `Ok` to a commit and does it later.
    EarlyOk,
    /// Forgets jobs that are to be deferred.
    DropDeferral,
    /// Gives a job to two.
    DoubleLease,
}

const EARLY_OK: u8 = 0;
const DROP_DEFERRAL: u8 = 1;
const DOUBLE_LEASE: u8 = 2;

struct Sabotaged<const CRIME: u8> {
    real: SimulatedQueue,
    late: Late,
}

/// Commits that were answered and not done.
type Late = Arc<Mutex<Vec<LateCommit>>>;
type LateCommit = (Box<dyn Draft>, Head, Vec<NewJob>);

#[async_trait]
impl<const CRIME: u8> Harness for Sabotaged<CRIME> {
    async fn open(seed: u64, settings: Settings, clock: VirtualClock) -> Self {
        let real = SimulatedQueue::new(seed, settings, clock.reader());
        Self { real, late: Late::default() }
    }

    fn queue(&self) -> Arc<dyn Queue> {
        let crime = match CRIME {
            EARLY_OK => Crime::EarlyOk,
            DROP_DEFERRAL => Crime::DropDeferral,
            _ => Crime::DoubleLease,
        };
        Arc::new(Saboteur { real: self.real.clone(), crime, late: Arc::clone(&self.late) })
    }

    async fn crash(&mut self) {
        self.late.lock().await.clear();
        self.real.crash();
    }

    fn fail_next(&mut self, _: Step, _: Fault) -> Support {
        Support::Unsupported
    }

    async fn damage(&mut self, _: QueueId) -> Support {
        Support::Unsupported
    }
}

struct Saboteur {
    real: SimulatedQueue,
    crime: Crime,
    late: Late,
}

#[async_trait]
impl Queue for Saboteur {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        let real = self.real.begin(envelope, admission).await?;
        if self.crime != Crime::EarlyOk {
            return Ok(real);
        }
        Ok(Box::new(HastyDraft { id: real.id(), real: Some(real), late: Arc::clone(&self.late) }))
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        for (mut draft, head, jobs) in self.late.lock().await.drain(..) {
            draft.commit(head, jobs).await.expect("a late commit succeeds");
        }
        let mut leases: Vec<Box<dyn Lease>> = Vec::new();
        for real in self.real.lease(kind, max, per_hop).await? {
            let (job, reason) = (real.job().clone(), real.reason());
            let real = Arc::new(Mutex::new(real));
            let copies = if self.crime == Crime::DoubleLease { 2 } else { 1 };
            for _ in 0..copies {
                let (job, real) = (job.clone(), Arc::clone(&real));
                leases.push(Box::new(CrookedLease { job, reason, real, crime: self.crime }));
            }
        }
        Ok(leases)
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        self.real.lease_more(hop).await
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

struct HastyDraft {
    id: QueueId,
    real: Option<Box<dyn Draft>>,
    late: Late,
}

#[async_trait]
impl Draft for HastyDraft {
    fn id(&self) -> QueueId {
        self.id
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError> {
        match &mut self.real {
            Some(real) => real.write(bytes).await,
            None => Ok(()),
        }
    }

    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        if let Some(real) = self.real.take() {
            self.late.lock().await.push((real, head, jobs));
        }
        Ok(())
    }
}

struct CrookedLease {
    job: Job,
    reason: LeaseReason,
    real: Arc<Mutex<Box<dyn Lease>>>,
    crime: Crime,
}

#[async_trait]
impl Lease for CrookedLease {
    fn job(&self) -> &Job {
        &self.job
    }

    fn reason(&self) -> LeaseReason {
        self.reason
    }

    async fn content(&self) -> Result<Content, ContentError> {
        self.real.lock().await.content().await
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        self.real.lock().await.extend().await
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        let mut settlement = settlement.clone();
        let deferral = matches!(settlement.disposition, Disposition::Defer { .. });
        if self.crime == Crime::DropDeferral && deferral {
            settlement.disposition = Disposition::Done;
        }
        self.real.lock().await.settle(&settlement).await
    }

    async fn release(self: Box<Self>) {}
}

async fn verdict<const CRIME: u8>() -> Violation {
    simulate::<Sabotaged<CRIME>>(1, 250).await.expect_err("the checker must notice")
}

#[tokio::test]
async fn an_early_ok_is_caught() {
    assert!(matches!(verdict::<EARLY_OK>().await, Violation::Lost(_)));
}

#[tokio::test]
async fn a_dropped_deferral_is_caught() {
    assert!(matches!(verdict::<DROP_DEFERRAL>().await, Violation::Lost(_)));
}

#[tokio::test]
async fn a_doubled_lease_is_caught() {
    assert!(matches!(verdict::<DOUBLE_LEASE>().await, Violation::LeasedTwice(_)));
}

/// The checks of the suite catch them as well, by a panic.
#[tokio::test]
async fn the_suite_catches_them() {
    use queue::conformance::{accepting, leasing, settling};
    let caught = [
        fails(accepting::committed_mail_survives_a_crash::<Sabotaged<EARLY_OK>>()).await,
        fails(settling::a_deferred_job_comes_back_at_its_time::<Sabotaged<DROP_DEFERRAL>>()).await,
        fails(leasing::per_hop_bounds_a_next_hop::<Sabotaged<DOUBLE_LEASE>>()).await,
    ];
    assert_eq!(caught, [true; 3]);
}

async fn fails(check: impl Future<Output = ()>) -> bool {
    use futures::FutureExt;
    std::panic::AssertUnwindSafe(check).catch_unwind().await.is_err()
}
