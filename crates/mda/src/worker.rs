//! The role at work: leases jobs, stores copies, records what became of them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use domains::{Absence, Table};
use mail_types::{Host, Timestamp};
use outcome::{Effort, Original, Plan, Route, Settler};
use queue::{
    ContentError, HopKind, Job, JobId, Lease, LeaseReason, NextHop, Queue, QueueError, SettleError,
    Settlement,
};
use retry::Policy;
use runtime::trace::{self, TARGET};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, debug_span, error, field, info, warn};

use crate::lmtp::Server;
use crate::log;
use crate::maildir::Store;
use crate::metrics::Metrics;
use crate::usage::Usage;

mod attempt;
mod handing;

use attempt::{Attempted, Copying, Obstacle};

/// Jobs leased in one call at most.
const LEASE_BATCH_MAX: usize = 32;
/// Between a lease call that failed and the next.
const LEASE_RETRY: Duration = Duration::from_secs(1);
const SETTLE_RETRY_MIN: Duration = Duration::from_millis(50);
const SETTLE_RETRY_MAX: Duration = Duration::from_secs(5);
/// How often one job looks whether there is room again, or the server.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Who keeps the mail.
pub(crate) enum Mailboxes {
    Maildirs { store: Arc<Store>, usage: Usage },
    Server(Box<Server>),
}

/// How outcomes are judged.
pub(crate) struct Terms {
    pub(crate) policy: Policy,
    pub(crate) settler: Settler,
}

impl Terms {
    pub(crate) fn new(name: &Host, route: &Route, policy: Policy) -> Self {
        let settler = Settler::new(name.clone(), route.clone(), policy.clone());
        Self { policy, settler }
    }
}

/// Everything that attempts share.
pub(crate) struct Worker {
    /// Jobs worked on at the same time.
    pub(crate) jobs_max: usize,
    pub(crate) terms: Arc<ArcSwap<Terms>>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) domains: Arc<ArcSwapOption<Table>>,
    pub(crate) absence: Arc<dyn Absence>,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) lease: Duration,
    pub(crate) metrics: Metrics,
    /// When the process began; who knows what one before it did with older mail.
    pub(crate) started: Timestamp,
    /// Jobs that an attempt of this process did not bring to a recorded end, yet.
    pub(crate) unsettled: Mutex<HashSet<JobId>>,
    /// Domains whose mail waits, all of it but for a probe.
    pub(crate) obstructed: Mutex<HashSet<NextHop>>,
    /// No more leases.
    pub(crate) stopping: CancellationToken,
}

/// No holder of these locks panics half way: each does one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of the trace of the transaction by which the message came.
fn delivery_span(job: &Job) -> Span {
    let span = debug_span!(
        target: TARGET,
        "mailbox.deliver",
        otel.kind = "consumer",
        otel.status_code = field::Empty,
        messaging.message.id = %job.id,
        smtp.next_hop = job.next_hop.key(),
        smtp.attempt = job.attempts + 1,
        smtp.null_sender = job.envelope.reverse_path.is_null(),
        smtp.result = field::Empty,
    );
    trace::follow(&span, job.envelope.trace_parent.as_deref());
    span
}

impl Worker {
    /// Leases until told to stop; then waits for what is in flight, up to `grace`.
    pub(crate) async fn run(self: Arc<Self>, grace: Duration) {
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        // The second never ends, and what it drops is closed by its drop.
        tokio::select! {
            () = self.clone().lease_jobs(&tasks, &abort) => {}
            () = self.sweep() => {}
        }
        tasks.close();
        let deadline = Instant::now() + grace;
        // Both branches may be dropped: waiting has no effect of its own.
        tokio::select! {
            () = tasks.wait() => {}
            () = sleep_until(deadline) => {
                warn!(attempts = tasks.len(), "deliveries cut off at the end of the grace time");
                abort.cancel();
                tasks.wait().await;
            }
        }
        if let Mailboxes::Server(server) = &self.mailboxes {
            server.close_idle(Duration::ZERO).await;
        }
    }

    async fn sweep(&self) {
        match &self.mailboxes {
            Mailboxes::Maildirs { store, usage } => usage.keep_true(store, &self.domains).await,
            Mailboxes::Server(server) => server.sweep().await,
        }
    }

    async fn lease_jobs(self: Arc<Self>, tasks: &TaskTracker, abort: &CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.jobs_max));
        loop {
            // A dropped lease call has leased nothing, or gives it back (contract of `Queue`).
            let batch = tokio::select! {
                () = self.stopping.cancelled() => return,
                batch = self.lease_batch(&permits) => batch,
            };
            match batch {
                Ok(batch) => {
                    for (lease, permit) in batch {
                        let span = delivery_span(lease.job());
                        let work = self.clone().handle(lease, permit).instrument(span);
                        tasks.spawn(abort.clone().run_until_cancelled_owned(work));
                    }
                }
                Err(QueueError::Closed) => return,
                Err(error) => {
                    warn!(%error, "no jobs can be leased now");
                    tokio::select! {
                        () = self.stopping.cancelled() => return,
                        () = sleep(LEASE_RETRY) => {}
                    }
                }
            }
        }
    }

    /// Permits first: a job that is leased is worked on at once.
    async fn lease_batch(
        &self,
        permits: &Arc<Semaphore>,
    ) -> Result<Vec<(Box<dyn Lease>, OwnedSemaphorePermit)>, QueueError> {
        let closed = |_| QueueError::Closed;
        let mut held = vec![permits.clone().acquire_owned().await.map_err(closed)?];
        while held.len() < LEASE_BATCH_MAX
            && let Ok(permit) = permits.clone().try_acquire_owned()
        {
            held.push(permit);
        }
        let leases = self.queue.lease(HopKind::Mailbox, held.len(), self.jobs_max).await?;
        Ok(leases.into_iter().zip(held).collect())
    }

    async fn handle(self: Arc<Self>, mut lease: Box<dyn Lease>, _permit: OwnedSemaphorePermit) {
        let job = lease.job().clone();
        match lease.reason() {
            LeaseReason::Due | LeaseReason::Probe => {
                self.metrics.attempts_in_progress.inc();
                let _counted = Counted(&self.metrics);
                self.attempt(&mut *lease, &job).await;
            }
            LeaseReason::Deadline => {
                let now = runtime::clock::now();
                let Terms { policy, settler } = &*self.terms.load_full();
                let plan = settler.deadline(&job, policy, now, &mut rand::rng());
                self.record(&mut *lease, &job, plan).await;
            }
            LeaseReason::Cancelled => {
                let terms = self.terms.load_full();
                let plan = terms.settler.cancellation(&job, runtime::clock::now());
                self.record(&mut *lease, &job, plan).await;
            }
        }
    }

    async fn attempt(&self, lease: &mut dyn Lease, job: &Job) {
        let at = runtime::clock::now();
        let started = Instant::now();
        let attempted = match &self.mailboxes {
            Mailboxes::Maildirs { store, usage } => {
                let copying = Copying { worker: self, store, usage, search: self.search(job) };
                copying.store_copies(lease, job, at).await
            }
            Mailboxes::Server(server) => self.hand_over(server, lease, job, at).await,
        };
        let took = started.elapsed();
        self.metrics.attempt_seconds.observe(took.as_secs_f64());
        let (verdicts, relay) = match attempted {
            Attempted::Done { verdicts, obstacle, relay } => {
                self.tell_obstacle(&job.next_hop, obstacle);
                (verdicts, relay)
            }
            Attempted::Damaged(what) => return self.quarantine(lease, job, &what).await,
            Attempted::LeaseLost => {
                self.metrics.leases_lost.inc();
                warn!(id = %job.id, "lease lost during the delivery; it is left to others");
                return;
            }
        };
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let effort = Effort { at, took_ms, relay: Some(relay), tls: None };
        let Terms { policy, settler } = &*self.terms.load_full();
        let now = runtime::clock::now();
        let plan = settler.attempt(job, policy, effort, verdicts, now, &mut rand::rng());
        self.record(lease, job, plan).await;
    }

    /// Keeps jobs of a domain back whose mailboxes take none, but for one probe at a time.
    fn tell_obstacle(&self, hop: &NextHop, obstacle: Option<Obstacle>) {
        let mut obstructed = locked(&self.obstructed);
        if let Some(obstacle) = obstacle {
            if obstructed.insert(hop.clone()) {
                match obstacle {
                    Obstacle::NoRoom => {
                        warn!(%hop, "the mailbox store has no room; mail waits in the queue");
                    }
                    Obstacle::Unreachable => {
                        warn!(%hop, "no mailbox server; mail waits in the queue");
                    }
                }
            }
            self.queue.hop_down(hop, runtime::clock::now() + PROBE_INTERVAL);
        } else if obstructed.remove(hop) {
            info!(%hop, "mail is stored again");
            self.queue.hop_up(hop);
        }
        let gauge = match &self.mailboxes {
            Mailboxes::Maildirs { .. } => &self.metrics.hops_without_room,
            Mailboxes::Server(_) => &self.metrics.hops_unreachable,
        };
        gauge.set(obstructed.len() as i64);
    }

    /// Logs what is new, composes the DSNs and records it all in one step.
    async fn record(&self, lease: &mut dyn Lease, job: &Job, plan: Plan) {
        let original = match plan.original_needed(job) {
            None => Ok(Original::NONE),
            Some(part) => Original::read(lease, part).await,
        };
        let original = match original {
            Ok(original) => original,
            Err(ContentError::Damaged(what)) => return self.quarantine(lease, job, &what).await,
            Err(error @ ContentError::Unavailable(_)) => {
                warn!(id = %job.id, %error, "outcome not recorded: its DSN cannot be made now");
                return;
            }
        };
        let server = match &self.mailboxes {
            Mailboxes::Maildirs { .. } => None,
            Mailboxes::Server(server) => Some(server.endpoint().to_string()),
        };
        log::news(job, &plan, server.as_deref(), &self.metrics);
        let terms = self.terms.load_full();
        let settlement = plan.settlement(&terms.settler, job, &original, &mut rand::rng());
        self.settle(lease, job, &settlement).await;
    }

    async fn quarantine(&self, lease: &mut dyn Lease, job: &Job, what: &str) {
        self.metrics.quarantined.inc();
        error!(id = %job.id, reason = what, "content cannot be read: quarantined");
        self.settle(lease, job, &Settler::quarantine(job, what)).await;
    }

    /// Records an outcome, as often as it takes while the lease lasts.
    async fn settle(&self, lease: &mut dyn Lease, job: &Job, settlement: &Settlement) {
        let deadline = Instant::now() + self.lease;
        let mut pause = SETTLE_RETRY_MIN;
        loop {
            let error = match lease.settle(settlement).await {
                Ok(()) => {
                    locked(&self.unsettled).remove(&job.id);
                    return;
                }
                Err(error) => error,
            };
            let lost = matches!(error, SettleError::LeaseLost);
            if lost || Instant::now() + pause > deadline {
                self.metrics.leases_lost.inc();
                error!(id = %job.id, %error, "outcome not recorded: the delivery will be repeated");
                return;
            }
            self.metrics.settlements_repeated.inc();
            warn!(id = %job.id, %error, "outcome not recorded yet");
            sleep(pause).await;
            pause = (pause * 2).min(SETTLE_RETRY_MAX);
        }
    }
}

/// An attempt in progress, until it ends in whatever way.
struct Counted<'a>(&'a Metrics);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.attempts_in_progress.dec();
    }
}
