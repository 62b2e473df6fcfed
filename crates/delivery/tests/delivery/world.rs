//! A queue that hands out given jobs and records what it is told, and the role at work on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use delivery::{Config, Delivery, Metrics, RouteConfig, Setup, TimeoutConfig, TlsMode};
use domains::{Absence, AtHome, Table};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mail_types::{
    BodyType, Envelope, Host, Mailbox, Origin, QueueId, Recipient, ReversePath, TenantId, Timestamp,
};
use outcome::Route;
use prometheus_client::registry::Registry;
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Draft, Filter, HopKind, Job,
    JobId, JobSummary, Lease, LeaseReason, NewJob, NextHop, Phase, Queue, QueueError,
    RecipientState, RecipientStatus, SettleError, Settlement, Stats,
};
use retry::PolicyChange;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::peer::Peer;

/// Longer than anything a test waits for.
const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const LEASE: Duration = Duration::from_secs(900);

#[derive(Default)]
pub(crate) struct State {
    waiting: VecDeque<Leased>,
    settled: Vec<(Job, Settlement)>,
    released: usize,
    hops: Vec<String>,
    /// Lease checks that still succeed; `None`: all.
    extensions_left: Option<usize>,
    settle_failures: usize,
    read_failures: usize,
    observer: Option<Box<dyn Fn() -> usize + Send>>,
    /// What the observer saw at each settlement.
    observed: Vec<usize>,
}

#[derive(Clone)]
struct Leased {
    job: Job,
    reason: LeaseReason,
    content: Result<Bytes, String>,
}

/// What tests see of the queue.
#[derive(Clone, Default)]
pub(crate) struct RecordingQueue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl RecordingQueue {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.state.lock().unwrap());
        self.changed.notify_waiters();
        result
    }

    /// Waits until `ready` gives something.
    pub(crate) async fn wait_for<T>(
        &self,
        what: &str,
        mut ready: impl FnMut(&State) -> Option<T>,
    ) -> T {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = ready(&self.state.lock().unwrap()) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("no {what}"))
    }

    fn take(&self, hop: Option<&NextHop>) -> Option<Box<dyn Lease>> {
        let mut state = self.state.lock().unwrap();
        let at = state.waiting.iter().position(|l| hop.is_none_or(|h| l.job.next_hop == *h))?;
        let leased = state.waiting.remove(at)?;
        Some(Box::new(TestLease { leased, queue: self.clone(), done: false }))
    }
}

struct TestLease {
    leased: Leased,
    queue: RecordingQueue,
    done: bool,
}

#[async_trait]
impl Lease for TestLease {
    fn job(&self) -> &Job {
        &self.leased.job
    }

    fn reason(&self) -> LeaseReason {
        self.leased.reason
    }

    async fn content(&self) -> Result<Content, ContentError> {
        self.queue.with(|state| match state.read_failures {
            0 => Ok(()),
            _ => {
                state.read_failures -= 1;
                Err(ContentError::Unavailable("test".into()))
            }
        })?;
        let content = self.leased.content.clone();
        let content = content.map_err(|what| ContentError::Damaged(what.into()))?;
        let chunks: Vec<_> = content.chunks(100_000).map(Bytes::copy_from_slice).map(Ok).collect();
        Ok(Content { size: content.len() as u64, chunks: stream::iter(chunks).boxed() })
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        self.queue.with(|state| match &mut state.extensions_left {
            Some(0) => Err(SettleError::LeaseLost),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        })
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        let job = self.leased.job.clone();
        self.queue.with(|state| {
            let seen = state.observer.as_ref().map(|observer| observer());
            state.observed.extend(seen);
            if state.settle_failures > 0 {
                state.settle_failures -= 1;
                return Err(SettleError::Unknown("test".into()));
            }
            state.settled.push((job, settlement.clone()));
            Ok(())
        })?;
        self.done = true;
        Ok(())
    }

    async fn release(self: Box<Self>) {}
}

impl Drop for TestLease {
    fn drop(&mut self) {
        if !self.done {
            self.queue.with(|state| state.released += 1);
        }
    }
}

#[async_trait]
impl Queue for RecordingQueue {
    async fn begin(
        &self,
        _envelope: Envelope,
        _admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        Err(AcceptError::Full)
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        _per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        assert_eq!(kind, HopKind::Smtp);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let leases: Vec<_> = std::iter::from_fn(|| self.take(None)).take(max).collect();
            if !leases.is_empty() {
                return Ok(leases);
            }
            changed.await;
        }
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        Ok(self.take(Some(hop)))
    }

    fn hop_down(&self, hop: &NextHop, _until: Timestamp) {
        self.with(|state| state.hops.push(format!("{} down", hop.key())));
    }

    fn hop_up(&self, hop: &NextHop) {
        self.with(|state| state.hops.push(format!("{} up", hop.key())));
    }

    fn list(&self, _filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        stream::empty().boxed()
    }

    async fn show(&self, _message: QueueId) -> Result<Vec<Job>, QueueError> {
        Ok(Vec::new())
    }

    async fn content(&self, _message: QueueId) -> Result<Option<Content>, ContentError> {
        Ok(None)
    }

    fn act(
        &self,
        _filter: Filter,
        _action: Action,
    ) -> BoxStream<'static, Result<Acted, QueueError>> {
        stream::empty().boxed()
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        Ok(Stats::default())
    }
}

/// What became of a job, in short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Summary {
    /// For each recipient in order: `delivered`, `pending` or `bounced`, code, status.
    pub(crate) recipients: Vec<String>,
    pub(crate) disposition: &'static str,
    pub(crate) dsns: usize,
    pub(crate) reply: String,
}

pub(crate) struct World {
    pub(crate) queue: RecordingQueue,
    pub(crate) config: Config,
    pub(crate) dns: Arc<resolve::Fake>,
    /// It has no domain at first.
    pub(crate) domains: Arc<ArcSwapOption<Table>>,
    pub(crate) absence: Arc<dyn Absence>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    pub(crate) registry: Arc<Mutex<Registry>>,
}

impl World {
    /// Everything goes to `peer`.
    pub(crate) fn to(peer: &Peer) -> Self {
        Self::with_routes(vec![route_to(peer)])
    }

    pub(crate) fn with_routes(routes: Vec<RouteConfig>) -> Self {
        let timeouts = TimeoutConfig {
            greeting_seconds: 1,
            command_seconds: 1,
            mail_seconds: 1,
            rcpt_seconds: 1,
            data_seconds: 1,
            block_seconds: 1,
            final_dot_seconds: 1,
        };
        Self {
            queue: RecordingQueue::default(),
            config: Config { routes, timeouts, ..Config::default() },
            dns: Arc::default(),
            domains: Arc::new(ArcSwapOption::from_pointee(Table::default())),
            absence: Arc::new(AtHome),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            registry: Arc::default(),
        }
    }

    pub(crate) fn start(&self) {
        let metrics = Metrics::register(&mut self.registry.lock().unwrap());
        let name = Host::parse("us.example").unwrap();
        let setup = Setup {
            queue: Arc::new(self.queue.clone()),
            resolver: self.dns.clone(),
            domains: self.domains.clone(),
            absence: self.absence.clone(),
            name,
            route: Route::new(|sender: &Mailbox| {
                vec![NewJob::new(
                    NextHop::smtp(sender.host()),
                    vec![Recipient::new(sender.clone())],
                )]
            }),
            lease: LEASE,
            metrics,
        };
        let delivery = Delivery::new(self.config.clone(), setup).unwrap();
        self.tasks.spawn(delivery.run(self.shutdown.clone(), Duration::from_secs(1)));
    }

    pub(crate) fn add(&self, job: Job, content: &[u8]) {
        let content = Ok(Bytes::copy_from_slice(content));
        self.add_leased(job, LeaseReason::Due, content);
    }

    pub(crate) fn add_for(&self, job: Job, reason: LeaseReason) {
        self.add_leased(job, reason, Ok(Bytes::from_static(CONTENT)));
    }

    pub(crate) fn add_damaged(&self, job: Job) {
        self.add_leased(job, LeaseReason::Due, Err("checksum".into()));
    }

    fn add_leased(&self, mut job: Job, reason: LeaseReason, content: Result<Bytes, String>) {
        job.size = content.as_ref().map_or(0, |content| content.len() as u64);
        self.queue.with(|state| state.waiting.push_back(Leased { job, reason, content }));
    }

    pub(crate) fn let_lease_lapse_after(&self, extensions: usize) {
        self.queue.with(|state| state.extensions_left = Some(extensions));
    }

    pub(crate) fn let_settling_fail(&self, times: usize) {
        self.queue.with(|state| state.settle_failures = times);
    }

    pub(crate) fn let_reading_fail(&self, times: usize) {
        self.queue.with(|state| state.read_failures = times);
    }

    /// Has `observer` look at each settlement, before it is recorded.
    pub(crate) fn observe_settlements(&self, observer: impl Fn() -> usize + Send + 'static) {
        self.queue.with(|state| state.observer = Some(Box::new(observer)));
    }

    pub(crate) fn observed(&self) -> Vec<usize> {
        self.queue.with(|state| state.observed.clone())
    }

    pub(crate) async fn settled(&self, count: usize) -> Vec<(Job, Settlement)> {
        let enough = |state: &State| (state.settled.len() >= count).then(|| state.settled.clone());
        self.queue.wait_for("settlement", enough).await
    }

    pub(crate) async fn released(&self) {
        self.queue.wait_for("release", |state| (state.released > 0).then_some(())).await;
    }

    pub(crate) fn released_count(&self) -> usize {
        self.queue.with(|state| state.released)
    }

    pub(crate) fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    pub(crate) fn hops(&self) -> Vec<String> {
        self.queue.with(|state| state.hops.clone())
    }

    /// Starts the role, delivers one job, and says what became of it.
    pub(crate) async fn deliver(&self, job: Job, content: &[u8]) -> (Summary, Settlement) {
        self.add(job, content);
        self.start();
        let (job, settlement) = self.settled(1).await.remove(0);
        self.stop().await;
        (summary(&job, &settlement), settlement)
    }

    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        let stopped = tokio::time::timeout(DEADLINE, self.tasks.wait()).await;
        stopped.expect("the role does not stop");
    }

    /// The value of a counter.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock().unwrap())
            .unwrap();
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

pub(crate) const CONTENT: &[u8] = b"From: <s@here.example>\r\nSubject: x\r\n\r\nbody\r\n";

pub(crate) fn route_to(peer: &Peer) -> RouteConfig {
    RouteConfig {
        domain: "*".into(),
        host: Some(peer.address.ip().to_string()),
        port: Some(peer.address.port()),
        tls: TlsMode::Opportunistic,
        chunking: true,
        auth: None,
        retry: PolicyChange::default(),
    }
}

pub(crate) fn job(recipients: &[&str]) -> Job {
    let arrival = runtime::clock::now();
    let recipient = |address: &&str| RecipientState {
        recipient: Recipient::new(Mailbox::parse(address).unwrap()),
        status: RecipientStatus::Pending,
        last: None,
    };
    let recipients: Vec<RecipientState> = recipients.iter().map(recipient).collect();
    let domain = recipients[0].recipient.address.host().clone();
    Job {
        id: JobId { message: QueueId::new(arrival, rand::random()), index: 0 },
        envelope: Arc::new(Envelope {
            reverse_path: ReversePath::parse("s@here.example").unwrap(),
            envid: None,
            ret: None,
            body: BodyType::SevenBit,
            smtputf8: false,
            arrival,
            expires: arrival + Duration::from_secs(432_000),
            tenant: TenantId::new("t"),
            identity: None,
            origin: Origin::Internal,
            trace_parent: None,
        }),
        next_hop: NextHop::smtp(&domain),
        forward: None,
        recipients,
        size: 0,
        attempts: 0,
        history: Vec::new(),
        delay_reported: false,
        phase: Phase::Active,
        next_attempt: None,
        quarantine_reason: None,
    }
}

pub(crate) fn change(job: &mut Job, change: impl FnOnce(&mut Envelope)) {
    change(Arc::make_mut(&mut job.envelope));
}

pub(crate) fn summary(job: &Job, settlement: &Settlement) -> Summary {
    use queue::{Disposition, Wait};
    let mut recipients = vec!["untried".to_owned(); job.recipients.len()];
    for progress in &settlement.progress {
        let status = match progress.status {
            RecipientStatus::Pending => "pending",
            RecipientStatus::Delivered => "delivered",
            RecipientStatus::Bounced => "bounced",
        };
        let reply = &progress.report.reply;
        let text = format!("{status} {} {}", reply.code, reply.status_or_general());
        for index in &progress.recipients {
            recipients[*index as usize].clone_from(&text);
        }
    }
    let disposition = match settlement.disposition {
        Disposition::Done => "done",
        Disposition::Defer { waiting_for: Wait::Time, .. } => "defer",
        Disposition::Defer { waiting_for: Wait::Hop, .. } => "defer for hop",
        Disposition::Hold => "hold",
        Disposition::Quarantine { .. } => "quarantine",
    };
    let last = settlement.progress.last();
    Summary {
        recipients,
        disposition,
        dsns: settlement.follow_ups.len(),
        reply: last.map(|progress| progress.report.reply.to_string()).unwrap_or_default(),
    }
}
