//! The queue as the roles see it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use mail_types::{Envelope, QueueId, Timestamp};
use nats::Login;
use queue::census::Census;
use queue::contract::Cause;
use queue::schedule::{Leased, Schedule};
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Draft, Filter, HopKind, Job,
    JobSummary, Lease, NextHop, Queue, QueueError, Stats,
};
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::config::Config;
use crate::draft::{self, JetDraft};
use crate::everybody::{self, Answer, Heard};
use crate::index::{Index, Place};
use crate::lease::Held;
use crate::metrics::Metrics;
use crate::names::{Door, Partition};
use crate::server::{self, ServerError, Silent};
use crate::shared::{Clock, Shared};
use crate::streams::{self, StreamError};
use crate::{
    backlog, census, crowd, end, everywhere, intake, orphans, ownership, permissions, split, usage,
};

/// A waiting lease looks at least this often: the clock may have been set.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at what others do.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at how the servers are set.
const VERIFY: Duration = Duration::from_secs(300);
/// While one of them did not answer.
const VERIFY_SILENT: Duration = Duration::from_secs(10);
/// Reads that a lease has under way at once.
const READS: usize = 16;

/// The queue on JetStream: one of the processes that share it.
pub struct JetQueue {
    shared: Arc<Shared>,
    kinds: Vec<HopKind>,
    /// Ends when all partitions are given back.
    owning: Mutex<Option<JoinHandle<()>>>,
}

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the queue's settings: {0}")]
    Config(String),
    #[error("cannot connect to {urls}")]
    Connect {
        urls: String,
        #[source]
        source: Cause,
    },
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl OpenError {
    /// Whether it may pass without an operator: servers that are not there yet, or lead nothing.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Config(_) => false,
            Self::Server(error) => matches!(error, ServerError::Silent { .. }),
            Self::Stream(error) => !matches!(error, StreamError::Differs { .. }),
        }
    }
}

impl JetQueue {
    /// Connects, creates or checks the streams, and serves the next hops of `kinds`. `clock` tells
    /// the time of day.
    pub async fn open(
        config: Config,
        kinds: Vec<HopKind>,
        metrics: Metrics,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let inbox = permissions::inbox(&kinds);
        Self::open_as(config, kinds, &inbox, metrics, clock).await
    }

    /// The same for operators alone: it serves nothing, and asks those that do.
    pub async fn open_for_operators(
        config: Config,
        metrics: Metrics,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let inbox = permissions::Role::Admin.inbox();
        Self::open_as(config, Vec::new(), &inbox, metrics, clock).await
    }

    async fn open_as(
        config: Config,
        kinds: Vec<HopKind>,
        inbox: &str,
        metrics: Metrics,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let client = connect(&config, inbox).await?;
        let broker = Broker::new(client, &config, metrics.clone());
        let pause = told_of(&server::verify(&broker, &config).await?);
        streams::ensure(&broker, &config).await?;
        let clock: Clock = Box::new(clock);
        // What comes again does so after `ackWaitSeconds`, and after a new leader was chosen.
        let index = Index::new(Schedule::new(config.lease_time()), config.ack_wait() * 2);
        let shared = Arc::new(Shared::new(broker, config, clock, metrics, index));
        let queue = Self { shared, kinds, owning: Mutex::default() };
        queue.start(pause);
        Ok(queue)
    }

    fn start(&self, verify_after: Duration) {
        self.shared.tasks.spawn(usage::run(Arc::clone(&self.shared)));
        self.shared.tasks.spawn(keep_verified(Arc::clone(&self.shared), verify_after));
        if self.kinds.is_empty() {
            return;
        }
        let (shared, tasks) = (&self.shared, &self.shared.tasks);
        for door in [Door::Outside, Door::Reserve] {
            tasks.spawn(split::run(Arc::clone(shared), door));
        }
        tasks.spawn(intake::keep_in_hand(Arc::clone(shared)));
        tasks.spawn(everywhere::answer(Arc::clone(shared)));
        tasks.spawn(crowd::run(Arc::clone(shared)));
        tasks.spawn(orphans::run(Arc::clone(shared)));
        tasks.spawn(backlog::run(Arc::clone(shared)));
        let owning = tasks.spawn(ownership::run(Arc::clone(shared), self.kinds.clone()));
        *self.owning.lock().unwrap_or_else(PoisonError::into_inner) = Some(owning);
    }

    /// The partitions that are ours now, as `s0`.
    pub fn partitions(&self) -> Vec<String> {
        let tenures = self.shared.tenures();
        let valid = tenures.values().filter(|tenure| tenure.is_valid());
        let mut partitions: Vec<_> = valid.map(|tenure| tenure.partition.to_string()).collect();
        partitions.sort();
        partitions
    }

    /// Deletes content that is older than `age` and that nothing refers to; tells how many messages
    /// of the streams that were. It is done now and then by itself: `age` must be more than a
    /// message may take to come in.
    pub async fn collect_orphans(&self, age: Duration) -> Result<u64, QueueError> {
        orphans::collect(&self.shared, age).await.map_err(QueueError::Unavailable)
    }

    /// Waits until all that the servers hold is known here: what waits to be split is split, what
    /// waits in an intake is in hand. For a process that serves all next hops, and tests.
    pub async fn caught_up(&self) -> Result<(), QueueError> {
        for &kind in &self.kinds {
            for partition in Partition::all(kind, self.shared.config.partitions_of(kind)) {
                self.loaded(partition).await?;
            }
        }
        for door in [Door::Outside, Door::Reserve] {
            while self.waiting(door).await? > self.known(door) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    async fn loaded(&self, partition: Partition) -> Result<(), QueueError> {
        loop {
            let tenure = self.shared.tenures().get(&partition).cloned();
            if let Some(tenure) = tenure {
                let mut loaded = tenure.loaded();
                loaded.wait_for(|loaded| *loaded).await.map_err(|_| QueueError::Closed)?;
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Messages that came in by a door and have not ended.
    async fn waiting(&self, door: Door) -> Result<u64, QueueError> {
        let mut messages = 0;
        for stream in streams::of(&self.shared.config, door) {
            let state = streams::state(&self.shared, &stream).await;
            messages += state.map_err(QueueError::Unavailable)?.messages;
        }
        Ok(messages)
    }

    /// Those of them that are in hand, or whose end is on its way.
    fn known(&self, door: Door) -> u64 {
        let index = self.shared.index();
        let in_hand = index.hand.messages().filter(|in_hand| in_hand.way.door == door).count();
        let ending = index.ending().filter(|ending| ending.way.door == door).count();
        (in_hand + ending) as u64
    }

    /// What this process has of the queue. Costs no request: what it does not know by itself is
    /// at most some ten seconds old.
    pub fn census(&self) -> Census {
        census::take(&self.shared)
    }

    /// From now on this process answers what others ask everybody. One that serves no next hops has
    /// nothing to say.
    pub fn answer_everybody(&self, answer: Answer) {
        if !self.kinds.is_empty() {
            self.shared.tasks.spawn(everybody::answer(Arc::clone(&self.shared), answer));
        }
    }

    /// Asks all other processes that serve next hops; gives the answers that came within 3 s.
    pub async fn ask_everybody(&self, question: String) -> Result<Heard, QueueError> {
        everybody::ask(&self.shared, question).await.map_err(QueueError::Unavailable)
    }

    /// Leases no more, gives its partitions to others, and ends what goes on in the background.
    /// For leases that have not ended it waits as long as they last.
    pub async fn close(&self) {
        self.shared.leaving.cancel();
        self.shared.changed.notify_waiters();
        let owning = self.owning.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(owning) = owning
            && let Err(error) = owning.await
        {
            tracing::error!(%error, "giving partitions back failed");
        }
        self.halt();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Stops at once, as if the process had ended.
    pub fn halt(&self) {
        self.shared.closed.cancel();
        self.shared.changed.notify_waiters();
    }

    fn lease_at_once(
        &self,
        lease: impl FnOnce(&mut Schedule<Place>, Timestamp) -> Vec<Leased<Place>>,
    ) -> Result<(Vec<Held>, Duration), QueueError> {
        if self.shared.closed.is_cancelled() || self.shared.leaving.is_cancelled() {
            return Err(QueueError::Closed);
        }
        let now = self.shared.now();
        let (views, wakeup) = {
            let mut index = self.shared.index();
            let views = index.lease(lease, |hop| self.shared.serves(hop), now);
            (views, index.schedule.next_wakeup())
        };
        end::sweep(&self.shared);
        let held = views
            .into_iter()
            .map(|(view, leased)| Held::new(&self.shared, view, &leased))
            .collect();
        let wait = wakeup.map_or(LOOK, |at| at.since(now).clamp(Duration::from_millis(1), LOOK));
        Ok((held, wait))
    }
}

/// Tells of servers that did not answer; returns when all are asked again.
fn told_of(silent: &[Silent]) -> Duration {
    for Silent { url, why } in silent {
        tracing::warn!(event = "server_silent", url, why, "it does not tell whether it syncs");
    }
    if silent.is_empty() { VERIFY } else { VERIFY_SILENT }
}

/// Looks again and again whether the servers still keep what they acknowledge; while they do not,
/// no mail is accepted.
async fn keep_verified(shared: Arc<Shared>, mut pause: Duration) {
    let work = async {
        loop {
            tokio::time::sleep(pause).await;
            let verified = server::verify(&shared.broker, &shared.config).await;
            // Those that are silent may be restarted: what they said before holds.
            let is_unsafe = matches!(verified, Err(ServerError::Old(_) | ServerError::Lazy(_)));
            if let Err(error) = &verified {
                tracing::error!(event = "server_refused", %error, is_unsafe);
            }
            shared.is_unsafe.store(is_unsafe, Ordering::Release);
            pause = verified.map_or(VERIFY_SILENT, |silent| told_of(&silent));
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

pub(crate) async fn connect(config: &Config, inbox: &str) -> Result<async_nats::Client, OpenError> {
    let urls = config.urls.join(", ");
    let failed = |source: Cause| OpenError::Connect { urls: urls.clone(), source };
    let login = Login {
        nkey_file: config.nkey_file.as_deref(),
        ca_file: config.ca_file.as_deref(),
        inbox_prefix: inbox,
        timeout: config.timeout(),
    };
    let options = login.options().await.map_err(failed)?;
    options.connect(config.urls.clone()).await.map_err(|error| failed(error.into()))
}

impl Drop for JetQueue {
    fn drop(&mut self) {
        self.halt();
    }
}

#[async_trait]
impl Queue for JetQueue {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        self.shared.may_accept().map_err(AcceptError::Unavailable)?;
        draft::admit(&self.shared, &envelope, admission, 0)?;
        let id = QueueId::new(envelope.arrival, rand::random());
        Ok(Box::new(JetDraft::new(Arc::clone(&self.shared), id, envelope, admission)))
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let (held, wait) =
                self.lease_at_once(|schedule, now| schedule.lease(kind, max, per_hop, now))?;
            if held.is_empty() {
                if max == 0 {
                    return Ok(Vec::new());
                }
                // Either way the queue is looked at again.
                let _ = tokio::time::timeout(wait, changed).await;
                continue;
            }
            let leases = load(held).await?;
            if !leases.is_empty() {
                return Ok(leases);
            }
        }
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        let lease = |schedule: &mut Schedule<Place>, now| {
            schedule.lease_more(hop, now).into_iter().collect()
        };
        let (held, _) = self.lease_at_once(lease)?;
        Ok(load(held).await?.pop())
    }

    fn hop_down(&self, hop: &NextHop, until: Timestamp) {
        self.shared.index().schedule.hop_down(hop, until, self.shared.now());
    }

    fn hop_up(&self, hop: &NextHop) {
        self.shared.index().schedule.hop_up(hop, self.shared.now());
        self.shared.changed.notify_waiters();
    }

    fn list(&self, filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        everywhere::list(Arc::clone(&self.shared), filter)
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        everywhere::show(&self.shared, message).await
    }

    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError> {
        everywhere::content(&self.shared, message).await
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        everywhere::act(Arc::clone(&self.shared), filter, action)
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let size = streams::size(&self.shared).await.map_err(QueueError::Unavailable)?;
        Ok(Stats {
            store_bytes: size,
            store_limit_bytes: self.shared.config.intake_bytes,
            ..everywhere::stats(&self.shared).await?
        })
    }
}

async fn load(held: Vec<Held>) -> Result<Vec<Box<dyn Lease>>, QueueError> {
    let loaded = stream::iter(held.into_iter().map(Held::load)).buffered(READS);
    let loaded: Vec<_> = loaded.collect().await;
    let mut leases: Vec<Box<dyn Lease>> = Vec::with_capacity(loaded.len());
    for lease in loaded {
        if let Some(lease) = lease? {
            leases.push(Box::new(lease));
        }
    }
    Ok(leases)
}
