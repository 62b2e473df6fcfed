//! The queue as the roles see it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use mail_types::{Envelope, QueueId, Timestamp};
use queue::contract::Cause;
use queue::schedule::{Leased, Schedule, View};
use queue::{
    AcceptError, Acted, Action, Admission, Draft, Filter, HopKind, Job, JobId, JobSummary, Lease,
    NextHop, Queue, QueueError, Stats,
};
use tokio::sync::watch;

use crate::broker::Broker;
use crate::config::Config;
use crate::draft::{self, JetDraft};
use crate::index::{Index, Place, Way};
use crate::lease::Held;
use crate::metrics::Metrics;
use crate::names::{Door, Lane, Partition, RESERVE};
use crate::read::{self, ReadError};
use crate::shared::{Clock, Shared};
use crate::streams::{self, StreamError};
use crate::{act, end, intake, jobs, split};

/// A waiting lease looks at least this often: the clock may have been set.
const LOOK: Duration = Duration::from_millis(500);
/// Jobs that a list reads at once.
const PAGE: usize = 128;
/// Reads that a list has under way at once.
const READS: usize = 16;

/// The queue on JetStream: one of the processes that share it.
pub struct JetQueue {
    shared: Arc<Shared>,
    partitions: Vec<Partition>,
    loaded: Vec<watch::Receiver<bool>>,
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
    Stream(#[from] StreamError),
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
        config.validate().map_err(OpenError::Config)?;
        let client = connect(&config).await?;
        let broker = Broker::new(client, config.timeout(), metrics.clone());
        streams::ensure(&broker, &config).await?;
        let clock: Clock = Box::new(clock);
        let index = Index::new(Schedule::new(config.lease_time()));
        let shared = Arc::new(Shared::new(broker, config, clock, metrics, index));
        let mut queue = Self { shared, partitions: Vec::new(), loaded: Vec::new() };
        queue.start(&kinds);
        Ok(queue)
    }

    fn start(&mut self, kinds: &[HopKind]) {
        let shared = &self.shared;
        for &kind in kinds {
            for partition in Partition::all(kind, shared.partitions(kind)) {
                let (loading, loaded) = watch::channel(false);
                shared.tasks.spawn(jobs::run(Arc::clone(shared), partition, loading));
                for door in [Door::Outside, Door::Reserve] {
                    shared.tasks.spawn(intake::run(
                        Arc::clone(shared),
                        Way { partition, door },
                        loaded.clone(),
                    ));
                }
                self.partitions.push(partition);
                self.loaded.push(loaded);
            }
        }
        if !kinds.is_empty() {
            for door in [Door::Outside, Door::Reserve] {
                shared.tasks.spawn(split::run(Arc::clone(shared), door));
            }
            shared.tasks.spawn(intake::keep_in_hand(Arc::clone(shared)));
        }
    }

    /// Waits until all that the servers hold is known here: what waits to be split is split, what
    /// waits in an intake is in hand. For a process that serves all next hops, and tests.
    pub async fn caught_up(&self) -> Result<(), QueueError> {
        for loaded in &self.loaded {
            let mut loaded = loaded.clone();
            loaded.wait_for(|loaded| *loaded).await.map_err(|_| QueueError::Closed)?;
        }
        let partitions = self.partitions.iter().map(|&partition| Lane::Partition(partition));
        for lane in partitions.chain([Lane::Split]) {
            self.drained(&Door::Outside.stream(lane), Door::Outside, Some(lane)).await?;
        }
        self.drained(RESERVE, Door::Reserve, None).await
    }

    async fn drained(
        &self,
        stream: &str,
        door: Door,
        lane: Option<Lane>,
    ) -> Result<(), QueueError> {
        const PAUSE: Duration = Duration::from_millis(2);
        loop {
            let state = streams::state(&self.shared, stream).await;
            if state.map_err(QueueError::Unavailable)?.messages <= self.known(door, lane) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Messages of an intake that are in hand, or whose end is on its way.
    fn known(&self, door: Door, lane: Option<Lane>) -> u64 {
        let is_of = |way: Way| {
            way.door == door && lane.is_none_or(|lane| lane == Lane::Partition(way.partition))
        };
        let index = self.shared.index();
        let in_hand = index.hand.values().filter(|in_hand| is_of(in_hand.way)).count();
        (in_hand + index.ending.values().filter(|way| is_of(**way)).count()) as u64
    }

    /// Leases no more and stops what goes on in the background.
    pub async fn close(&self) {
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
        if self.shared.closed.is_cancelled() {
            return Err(QueueError::Closed);
        }
        let now = self.shared.now();
        let mut index = self.shared.index();
        let leased = lease(&mut index.schedule, now);
        let views: Vec<_> = leased
            .into_iter()
            .filter_map(|leased| Some((index.schedule.get(leased.token.job())?, leased)))
            .collect();
        let wakeup = index.schedule.next_wakeup();
        drop(index);
        end::sweep(&self.shared);
        let held = views
            .into_iter()
            .map(|(view, leased)| Held::new(&self.shared, view, &leased))
            .collect();
        let wait = wakeup.map_or(LOOK, |at| at.since(now).clamp(Duration::from_millis(1), LOOK));
        Ok((held, wait))
    }
}

async fn connect(config: &Config) -> Result<async_nats::Client, OpenError> {
    let urls = config.urls.join(", ");
    let failed = |source: Cause| OpenError::Connect { urls: urls.clone(), source };
    let mut options = ConnectOptions::new()
        .name("postrider")
        .retry_on_initial_connect()
        .request_timeout(Some(config.timeout()));
    if let Some(file) = &config.ca_file {
        options = options.add_root_certificates(file.clone()).require_tls(true);
    }
    if let Some(file) = &config.nkey_file {
        let seed = tokio::fs::read_to_string(file).await.map_err(|error| failed(error.into()))?;
        options = options.nkey(seed.trim().to_owned());
    }
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
        let jobs = matching(Arc::clone(&self.shared), filter);
        jobs.map(|job| job.map(|job| job.summary())).boxed()
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        let views = self.shared.index().schedule.of_message(message);
        read_jobs(&self.shared, views).await
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        let shared = Arc::clone(&self.shared);
        let jobs = matching(Arc::clone(&self.shared), filter);
        jobs.filter_map(move |job| {
            let shared = Arc::clone(&shared);
            async move {
                match job {
                    Ok(job) => act::act(&shared, job.id, action).await.transpose(),
                    Err(error) => Some(Err(error)),
                }
            }
        })
        .boxed()
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let size = streams::size(&self.shared).await.map_err(QueueError::Unavailable)?;
        let mut index = self.shared.index();
        index.schedule.advance(self.shared.now());
        let counts = index.schedule.counts();
        let stats = Stats {
            messages: counts.messages,
            content_bytes: counts.content_bytes,
            ready: counts.ready,
            active: counts.active,
            deferred: counts.deferred(),
            held: counts.held,
            quarantined: counts.quarantined,
            oldest_ready: index.schedule.oldest_ready(),
            store_bytes: size,
            store_limit_bytes: self.shared.config.intake_bytes,
        };
        drop(index);
        end::sweep(&self.shared);
        Ok(stats)
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

/// The jobs that match, page by page.
fn matching(shared: Arc<Shared>, filter: Filter) -> BoxStream<'static, Result<Job, QueueError>> {
    let first = filter.message.map(|message| JobId { message, index: 0 });
    let pages = stream::unfold(Some(first), move |from| {
        let (shared, filter) = (Arc::clone(&shared), filter.clone());
        async move {
            match page(&shared, &filter, from?).await {
                Ok((jobs, next)) => Some((jobs.into_iter().map(Ok).collect(), next.map(Some))),
                Err(error) => Some((vec![Err(error)], None)),
            }
        }
    });
    pages.flat_map(stream::iter).boxed()
}

async fn page(
    shared: &Arc<Shared>,
    filter: &Filter,
    from: Option<JobId>,
) -> Result<(Vec<Job>, Option<JobId>), QueueError> {
    let now = shared.now();
    let page = {
        let mut index = shared.index();
        index.schedule.advance(now);
        index.schedule.page(from, PAGE)
    };
    end::sweep(shared);
    let mut views = page.jobs;
    let only = filter.message;
    let next = page.next.filter(|next| only.is_none_or(|message| message == next.message));
    views.retain(|view| filter.may_match(view.id, &view.tenant, view.phase, now));
    let mut jobs = read_jobs(shared, views).await?;
    jobs.retain(|job| filter.matches(job, now));
    Ok((jobs, next))
}

/// Reads jobs; passes over those that ended meanwhile and those whose records are damaged.
async fn read_jobs(shared: &Arc<Shared>, views: Vec<View<Place>>) -> Result<Vec<Job>, QueueError> {
    let reads = stream::iter(views).map(|view| async move {
        let read = read::read_job(shared, view.id).await;
        (view, read)
    });
    let reads: Vec<_> = reads.buffered(READS).collect().await;
    let mut jobs = Vec::with_capacity(reads.len());
    for (view, read) in reads {
        match read {
            Ok(Some(read)) => jobs.push(read.state.job(read.source.message(), &view)),
            Ok(None) => {}
            Err(ReadError::Damaged(error)) => {
                tracing::error!(job = %view.id, %error, "cannot show a job");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(jobs)
}
