//! The role at work: leases jobs, attempts them, records what became of them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use domains::{Absence, Table};
use mail_types::Host;
use outcome::{Effort, Original, OriginalPart, Plan, Settler, Verdict};
use queue::{ContentError, HopKind, Job, Lease, LeaseReason, NextHop, Queue, QueueError};
use queue::{SettleError, Settlement};
use resolve::Resolver;
use runtime::trace::{self, TARGET};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, debug_span, error, field, info, warn};

use crate::attempt::{Attempt, Attempted, HopState, host_of};
use crate::config::{Route, Settings};
use crate::hop_health::HopHealth;
use crate::log;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::session::{Opener, Session};
use crate::sources;
use crate::targets::Finder;

/// Jobs leased in one call at most.
const LEASE_BATCH_MAX: usize = 32;
/// Between a lease call that failed and the next.
const LEASE_RETRY: Duration = Duration::from_secs(1);
const SETTLE_RETRY_MIN: Duration = Duration::from_millis(50);
const SETTLE_RETRY_MAX: Duration = Duration::from_secs(5);

/// Everything that attempts share.
#[derive(Clone)]
pub(crate) struct Worker {
    /// Those that an attempt is made by, from its beginning to its end.
    pub(crate) settings: Arc<Settings>,
    /// Those in force.
    pub(crate) live: Arc<ArcSwap<Settings>>,
    pub(crate) name: Host,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) domains: Arc<ArcSwapOption<Table>>,
    pub(crate) absence: Arc<dyn Absence>,
    pub(crate) settler: Settler,
    /// Where DSNs go.
    pub(crate) route: outcome::Route,
    pub(crate) lease: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) health: Arc<HopHealth>,
    pub(crate) pool: Arc<Pool>,
    /// No more leases.
    pub(crate) stopping: CancellationToken,
}

/// A settlement, recorded or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Settled {
    Recorded,
    /// The job is somebody else's, or will be: the session must not be used for it again.
    Lost,
}

/// A part of the trace of the transaction by which the message came.
fn attempt_span(job: &Job) -> Span {
    let span = debug_span!(
        target: TARGET,
        "smtp.deliver",
        otel.kind = "client",
        otel.status_code = field::Empty,
        network.protocol.name = "smtp",
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
    /// Opens sessions for mail of a sender ([`sources::sender`]).
    pub(crate) fn opener<'a>(&'a self, sender: &'a str) -> Opener<'a> {
        Opener { settings: &self.settings, name: &self.name, sender, metrics: &self.metrics }
    }

    /// Whether mail of the job's sender comes from where the session does.
    fn fits(&self, session: &Session, job: &Job) -> bool {
        let sender = sources::sender(&job.envelope);
        let source = self.settings.sources.pick(&sender, session.peer);
        source.map(|source| source.address) == session.source
    }

    pub(crate) fn finder(&self) -> Finder<'_> {
        Finder { settings: &self.settings, resolver: &*self.resolver, name: &self.name }
    }

    /// The way to a host, as of now: the domain table says which domains of ours have a server of
    /// their own.
    fn route(&self, host: &Host) -> Cow<'_, Route> {
        let configured = self.settings.route(host);
        let table = self.domains.load();
        let (Some(table), Some(domain)) = (table.as_ref(), host.domain()) else {
            return Cow::Borrowed(configured);
        };
        match table.gateway(domain) {
            Some(gateway) => Cow::Owned(self.settings.route_to_gateway(host, gateway)),
            None if table.is_hosted(domain) => Cow::Owned(configured.to_mailboxes()),
            None => Cow::Borrowed(configured),
        }
    }

    /// Whether the domain table here is the one in force: a domain that it does not have may have a
    /// server of its own by now.
    pub(crate) async fn is_certain(&self) -> bool {
        match &self.domains.load_full() {
            Some(table) => self.absence.is_proven(table).await,
            None => false,
        }
    }

    /// Leases until told to stop; then waits for what is in flight, up to `grace`.
    pub(crate) async fn run(self: Arc<Self>, grace: Duration) {
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let sweeping = CancellationToken::new();
        tasks.spawn(self.clone().sweep_pool(sweeping.clone()));
        self.clone().lease_jobs(&tasks, &abort).await;
        sweeping.cancel();
        tasks.close();
        let deadline = Instant::now() + grace;
        // Both branches may be dropped: waiting has no effect of its own.
        tokio::select! {
            () = tasks.wait() => {}
            () = sleep_until(deadline) => {
                warn!(attempts = tasks.len(), "attempts cut off at the end of the grace time");
                abort.cancel();
                tasks.wait().await;
            }
        }
        for session in self.pool.drain_all() {
            session.connection.quit().await;
        }
    }

    fn is_current(&self) -> bool {
        Arc::ptr_eq(&self.live.load(), &self.settings)
    }

    /// The same with the settings in force.
    fn renewed(self: Arc<Self>) -> Arc<Self> {
        let settings = self.live.load_full();
        if Arc::ptr_eq(&settings, &self.settings) {
            return self;
        }
        let retry = settings.config.retry.clone();
        let settler = Settler::new(self.name.clone(), self.route.clone(), retry);
        Arc::new(Self { settings, settler, ..Self::clone(&self) })
    }

    async fn lease_jobs(mut self: Arc<Self>, tasks: &TaskTracker, abort: &CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.settings.config.connections_max));
        loop {
            // A dropped lease call has leased nothing, or gives it back (contract of `Queue`).
            let batch = tokio::select! {
                () = self.stopping.cancelled() => return,
                batch = self.lease_batch(&permits) => batch,
            };
            match batch {
                Ok(batch) => {
                    // They may have changed while it was waited for.
                    self = self.renewed();
                    for (lease, permit) in batch {
                        let work = self.clone().serve(lease, permit);
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
        let per_hop = self.settings.config.connections_per_destination_max;
        let leases = self.queue.lease(HopKind::Smtp, held.len(), per_hop).await?;
        Ok(leases.into_iter().zip(held).collect())
    }

    /// Works on a job, then on others for the same next hop as long as the connection serves.
    async fn serve(self: Arc<Self>, lease: Box<dyn Lease>, permit: OwnedSemaphorePermit) {
        let hop = lease.job().next_hop.clone();
        let mut session = None;
        let mut next = Some(lease);
        while let Some(lease) = next.take() {
            self.metrics.attempts_in_progress.inc();
            let again = match session.take() {
                Some(other) if !self.fits(&other, lease.job()) => {
                    self.put_away(&hop, other).await;
                    None
                }
                // A host may have closed it after the message before.
                session => session.and_then(|mut it: Session| it.is_reusable().then_some(it)),
            };
            let fits = |session: &Session| self.fits(session, lease.job());
            let in_hand = again.or_else(|| self.pool.take(&hop, &self.settings, fits));
            let span = attempt_span(lease.job());
            session = Box::pin(self.handle(lease, in_hand)).instrument(span).await;
            self.metrics.attempts_in_progress.dec();
            // What comes next may be for another host by now.
            let goes_on = self.is_current() && !self.stopping.is_cancelled();
            if session.is_some() && goes_on {
                next = self.queue.lease_more(&hop).await.unwrap_or_default();
            }
        }
        drop(permit);
        if let Some(session) = session {
            self.put_away(&hop, session).await;
        }
    }

    async fn put_away(&self, hop: &NextHop, session: Session) {
        let kept = match self.stopping.is_cancelled() {
            true => Some(session),
            false => self.pool.put(hop, session, &self.settings),
        };
        if let Some(session) = kept {
            session.connection.quit().await;
        }
    }

    async fn handle(&self, mut lease: Box<dyn Lease>, session: Option<Session>) -> Option<Session> {
        let job = lease.job().clone();
        let host = host_of(&job.next_hop);
        let route = match &host {
            Ok(host) => self.route(host),
            Err(_) => Cow::Borrowed(self.settings.route(&self.name)),
        };
        let session = match session {
            Some(session) if !session.is_on(&route) => {
                session.connection.quit().await;
                None
            }
            session => session,
        };
        match lease.reason() {
            LeaseReason::Due | LeaseReason::Probe => {
                self.attempt(lease, &job, &route, session).await
            }
            LeaseReason::Deadline => {
                let now = runtime::clock::now();
                let policy = &route.retry;
                let plan = self.settler.deadline(&job, policy, now, &mut rand::rng());
                self.record(&mut *lease, &job, plan, None).await;
                session
            }
            LeaseReason::Cancelled => {
                let plan = self.settler.cancellation(&job, runtime::clock::now());
                self.record(&mut *lease, &job, plan, None).await;
                session
            }
        }
    }

    async fn attempt(
        &self,
        mut lease: Box<dyn Lease>,
        job: &Job,
        route: &Route,
        session: Option<Session>,
    ) -> Option<Session> {
        self.metrics.attempts.inc();
        let attempt = Attempt::new(self, &mut *lease, job, route);
        let (attempted, session) = attempt.run(session).await;
        let (effort, delays, verdicts, hop) = match attempted {
            Attempted::Done { effort, delays, verdicts, hop } => (effort, delays, verdicts, hop),
            Attempted::Damaged(what) => {
                self.quarantine(&mut *lease, job, &what).await;
                return None;
            }
            Attempted::LeaseLost => {
                self.metrics.leases_lost.inc();
                warn!(id = %job.id, "lease lost during the attempt; it is left to others");
                return None;
            }
        };
        self.metrics.attempt_seconds.observe(effort.took_ms as f64 / 1000.0);
        if hop == HopState::Unreachable {
            self.hop_failed(&job.next_hop, route);
        }
        let plan = self.plan(job, route, &effort, verdicts);
        let logged = log::Attempted { effort: &effort, delays };
        let settled = self.record(&mut *lease, job, plan, Some(logged)).await;
        let session = session?;
        let max = self.settings.config.messages_per_connection_max;
        let worn = session.transactions >= max || !session.connection.is_idle();
        if worn || settled == Settled::Lost {
            session.connection.quit().await;
            return None;
        }
        Some(session)
    }

    fn plan(&self, job: &Job, route: &Route, effort: &Effort, verdicts: Vec<Verdict>) -> Plan {
        let now = runtime::clock::now();
        let rng = &mut rand::rng();
        self.settler.attempt(job, &route.retry, effort.clone(), verdicts, now, rng)
    }

    /// Logs what is new, composes the DSNs and records it all in one step.
    async fn record(
        &self,
        lease: &mut dyn Lease,
        job: &Job,
        plan: Plan,
        attempted: Option<log::Attempted<'_>>,
    ) -> Settled {
        let original = match plan.original_needed(job) {
            None => Original::NONE,
            Some(part) => self.original(lease, job, part).await,
        };
        log::news(job, &plan, attempted, &self.metrics);
        let settlement = plan.settlement(&self.settler, job, &original, &mut rand::rng());
        self.settle(lease, job, &settlement).await
    }

    /// What a DSN returns, read as often as half of the lease allows. When it cannot be read, the
    /// DSN goes without: an outcome that is not recorded would be found out again, by delivering
    /// twice.
    async fn original(&self, lease: &dyn Lease, job: &Job, part: OriginalPart) -> Original {
        let deadline = Instant::now() + self.lease / 2;
        let mut pause = SETTLE_RETRY_MIN;
        loop {
            let error = match Original::read(lease, part).await {
                Ok(original) => return original,
                Err(error) => error,
            };
            let damaged = matches!(error, ContentError::Damaged(_));
            if damaged || Instant::now() + pause > deadline {
                error!(id = %job.id, %error, "content cannot be read: its DSN goes without");
                return Original::NONE;
            }
            warn!(id = %job.id, %error, "its DSN waits for the content");
            sleep(pause).await;
            pause = (pause * 2).min(SETTLE_RETRY_MAX);
        }
    }

    async fn quarantine(&self, lease: &mut dyn Lease, job: &Job, what: &str) -> Settled {
        self.metrics.quarantined.inc();
        error!(id = %job.id, reason = what, "content cannot be read: quarantined");
        self.settle(lease, job, &Settler::quarantine(job, what)).await
    }

    /// Records an outcome, as often as it takes while the lease lasts.
    async fn settle(&self, lease: &mut dyn Lease, job: &Job, settlement: &Settlement) -> Settled {
        let deadline = Instant::now() + self.lease;
        let mut pause = SETTLE_RETRY_MIN;
        loop {
            let error = match lease.settle(settlement).await {
                Ok(()) => return Settled::Recorded,
                Err(error) => error,
            };
            let lost = matches!(error, SettleError::LeaseLost);
            if lost || Instant::now() + pause > deadline {
                self.metrics.leases_lost.inc();
                error!(id = %job.id, %error, "outcome not recorded: the attempt will be repeated");
                return Settled::Lost;
            }
            self.metrics.settlements_repeated.inc();
            warn!(id = %job.id, %error, "outcome not recorded yet");
            sleep(pause).await;
            pause = (pause * 2).min(SETTLE_RETRY_MAX);
        }
    }

    /// A session with the hop was opened.
    pub(crate) fn hop_reached(&self, hop: &NextHop) {
        self.health.reached(hop);
        self.queue.hop_up(hop);
        self.metrics.hops_down.set(self.health.down() as i64);
    }

    fn hop_failed(&self, hop: &NextHop, route: &Route) {
        let now = runtime::clock::now();
        let until = self.health.failed(hop, &route.retry, now, &mut rand::rng());
        self.queue.hop_down(hop, until);
        self.metrics.hops_down.set(self.health.down() as i64);
        info!(event = "hop_down", %hop, %until, "next hop cannot be reached");
    }

    /// Closes connections that nobody needed again.
    async fn sweep_pool(self: Arc<Self>, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            // Both branches may be dropped: a tick that was missed comes again.
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            for session in self.pool.expired() {
                session.connection.quit().await;
            }
        }
    }
}
