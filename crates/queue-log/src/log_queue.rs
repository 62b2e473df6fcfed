//! The queue as the roles see it.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use mail_types::{Envelope, QueueId, Timestamp};
use queue::census::{Census, Named, Share};
use queue::schedule::{Leased, Schedule};
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Draft, Filter, HopKind, Job,
    JobSummary, Lease, NextHop, Queue, QueueError, Stats,
};
use tokio::sync::{mpsc, oneshot};

use crate::act;
use crate::cache::Cache;
use crate::checkpoint::{self, Position};
use crate::config::Config;
use crate::content;
use crate::disk::{self, Disk, OsDisk};
use crate::draft::{self, LogDraft, Octets};
use crate::index::{Index, Places};
use crate::janitor::Janitor;
use crate::lease::Held;
use crate::list;
use crate::metrics::Metrics;
use crate::recovery::{self, Recovered, RecoveryError};
use crate::shared::{Clock, Message, Shared, closed};
use crate::snapshot::Snapshot;
use crate::writer::Writer;

/// Requests that may wait for the writer.
const REQUESTS: usize = 1024;
/// A waiting lease looks at least this often: the clock may have been set.
const LOOK: Duration = Duration::from_millis(500);
/// Octets of the log after which reading it is worth a checkpoint.
const SCANNED: u64 = 16 << 20;

/// The embedded durable queue: one directory, one process.
///
/// Dropping it stops its threads; what was committed stays, as after a crash. [`Self::close`] also
/// saves the index, so that it opens faster.
pub struct LogQueue {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    lock: Mutex<Option<File>>,
}

struct Threads {
    writer: JoinHandle<Position>,
    janitor: JoinHandle<()>,
    stop: std::sync::mpsc::SyncSender<()>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the queue's settings: {0}")]
    Config(String),
    #[error("cannot use {dir}: make it a directory that this user may write to")]
    Directory { dir: Box<Path>, source: std::io::Error },
    #[error("another process uses {dir}: stop it, or give this one another directory")]
    Locked { dir: Box<Path> },
    #[error("cannot read the queue in {dir}")]
    Read { dir: Box<Path>, source: Box<dyn std::error::Error + Send + Sync> },
}

impl LogQueue {
    /// Opens the store in `dir`, or makes an empty one. Reads the log: blocks, for seconds after a
    /// crash of a large queue. `clock` tells the time of day.
    pub fn open(
        dir: &Path,
        config: Config,
        metrics: Metrics,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let unusable = |source| OpenError::Directory { dir: dir.into(), source };
        let disk = OsDisk::new(dir).map_err(unusable)?;
        let locked = || OpenError::Locked { dir: dir.into() };
        let lock = disk.lock().map_err(unusable)?.ok_or_else(locked)?;
        let queue = Self::on(Arc::new(disk), config, metrics, Box::new(clock));
        let mut queue =
            queue.map_err(|source| OpenError::Read { dir: dir.into(), source: source.into() })?;
        queue.lock = Mutex::new(Some(lock));
        Ok(queue)
    }

    pub(crate) fn on(
        disk: Arc<dyn Disk>,
        config: Config,
        metrics: Metrics,
        clock: Clock,
    ) -> Result<Self, RecoveryError> {
        let schedule = Schedule::new(config.lease_time());
        let mut index = Index::new(schedule, Cache::new(config.cache_bytes));
        let now = clock();
        let found = recovery::recover(&*disk, &mut index, &metrics, now)?;
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let shared = Arc::new(Shared::new(disk, config, clock, metrics, requests, index));
        let started = std::io::Error::other("cannot start a thread");
        let threads = start(&shared, receiver, &found).map_err(|source| RecoveryError::Io {
            path: disk::ROOT.into(),
            source: if source.raw_os_error().is_some() { source } else { started },
        })?;
        tell(&shared, &found);
        Ok(Self { shared, threads: Mutex::new(Some(threads)), lock: Mutex::new(None) })
    }

    /// Leases no more, does what is under way, saves the index. Then the directory is free.
    pub async fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.changed.notify_waiters();
        let Some(threads) = self.take_threads() else { return };
        let shared = Arc::clone(&self.shared);
        let closed = tokio::task::spawn_blocking(move || {
            let Some(position) = threads.join() else { return };
            if let Err(error) = checkpoint::save(&shared, position) {
                tracing::warn!(%error, "cannot save the index: the log is read at the next start");
            }
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "closing the queue failed");
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn take_threads(&self) -> Option<Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn lease_at_once(
        &self,
        lease: impl FnOnce(&mut Schedule<Places>, Timestamp) -> Vec<Leased<Places>>,
    ) -> Result<(Vec<Held>, Duration), QueueError> {
        if self.shared.is_closed() {
            return Err(QueueError::Closed);
        }
        if self.shared.is_broken.load(Ordering::Acquire) {
            return Ok((Vec::new(), LOOK));
        }
        let now = self.shared.now();
        let mut index = self.shared.index();
        let leased = lease(&mut index.schedule, now);
        index.sweep();
        let held: Vec<Held> =
            leased.iter().map(|leased| Held::new(&self.shared, &index, leased)).collect();
        let wakeup = index.schedule.next_wakeup();
        drop(index);
        let wait = wakeup.map_or(LOOK, |at| at.since(now).clamp(Duration::from_millis(1), LOOK));
        Ok((held, wait))
    }
}

impl Threads {
    /// Stops both; gives the end of the log.
    fn join(self) -> Option<Position> {
        // Full, it is on its way already.
        let _ = self.stop.try_send(());
        let janitor = self.janitor.join();
        let writer = self.writer.join();
        if janitor.is_err() || writer.is_err() {
            tracing::error!("a thread of the queue ended in a panic");
        }
        writer.ok()
    }
}

impl LogQueue {
    /// The queue counted.
    pub fn census(&self) -> Census {
        let mut index = self.shared.index();
        index.schedule.advance(self.shared.now());
        index.sweep();
        let mut share = Share::default();
        let next_hops: Vec<_> = index.schedule.hop_tallies().collect();
        for (_, tally) in &next_hops {
            share.tally.add(tally);
        }
        let counts = index.schedule.counts();
        Census {
            messages: counts.messages,
            content_bytes: counts.content_bytes,
            shares: vec![("log".to_owned(), share)],
            next_hops: Named::most(next_hops),
            tenants: Named::most(index.schedule.tenant_tallies()),
            store_bytes: Some(self.shared.used_bytes(&index)),
            store_limit_bytes: Some(self.shared.limit_bytes(&index)),
        }
    }
}

impl LogQueue {
    /// The queue as it is now, to be copied. Until it is dropped nothing of it is deleted, and a
    /// second snapshot waits.
    ///
    /// # Errors
    /// When the queue is closed, or its directory cannot be listed.
    pub async fn snapshot(&self) -> Result<Snapshot, QueueError> {
        let unavailable = |_| QueueError::Unavailable(closed());
        let unlinking = Arc::clone(&self.shared.unlinking).acquire_owned();
        let unlinking = unlinking.await.map_err(|error| QueueError::Unavailable(error.into()))?;
        let (reply, position) = oneshot::channel();
        let asked = self.shared.requests.send(Message::Position(reply)).await;
        asked.map_err(|_| QueueError::Unavailable(closed()))?;
        let position = position.await.map_err(unavailable)?;
        let shared = Arc::clone(&self.shared);
        let taken = move || Snapshot::take(shared, unlinking, position);
        let taken = tokio::task::spawn_blocking(taken).await;
        let taken = taken.map_err(|error| QueueError::Unavailable(error.into()))?;
        taken.map_err(|error| QueueError::Unavailable(error.into()))
    }

    /// Ends the threads, as if the process had ended.
    pub(crate) fn halt(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
        self.shared.changed.notify_waiters();
        if let Some(threads) = self.take_threads() {
            threads.join();
        }
    }

    /// Has the janitor look around now.
    #[cfg(test)]
    pub(crate) fn poke(&self) {
        if let Some(threads) = &*self.threads.lock().unwrap() {
            let _ = threads.stop.try_send(());
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        self.halt();
    }
}

fn start(
    shared: &Arc<Shared>,
    receiver: mpsc::Receiver<Message>,
    found: &Recovered,
) -> std::io::Result<Threads> {
    let (poke, pokes) = std::sync::mpsc::sync_channel(1);
    let mut writer = Writer::new(Arc::clone(shared), receiver, poke.clone(), found);
    let mut janitor = Janitor::new(Arc::clone(shared), pokes);
    janitor.begin(found.damages > 0);
    writer.start();
    if found.scanned_bytes > SCANNED || found.damages > 0 {
        janitor.checkpoint();
    }
    let writer =
        std::thread::Builder::new().name("queue-writer".into()).spawn(move || writer.run())?;
    let janitor =
        std::thread::Builder::new().name("queue-janitor".into()).spawn(move || janitor.run())?;
    Ok(Threads { writer, janitor, stop: poke })
}

fn tell(shared: &Shared, found: &Recovered) {
    let counts = shared.index().schedule.counts();
    tracing::info!(
        event = "queue_open",
        messages = counts.messages,
        jobs = counts.jobs,
        read_bytes = found.scanned_bytes,
        damaged_places = found.damages,
        "the queue is open"
    );
}

#[async_trait]
impl Queue for LogQueue {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        let shared = &self.shared;
        draft::admit(shared, &shared.index(), &envelope, admission, Octets::default())?;
        let id = QueueId::new(envelope.arrival, rand::random());
        Ok(Box::new(LogDraft::new(Arc::clone(&self.shared), id, envelope, admission)))
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
        let lease = |schedule: &mut Schedule<Places>, now| {
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
        let jobs = list::matching(Arc::clone(&self.shared), filter);
        jobs.map(|job| job.map(|job| job.summary())).boxed()
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || list::show(&shared, message));
        read.await.map_err(|error| QueueError::Unavailable(error.into()))?
    }

    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError> {
        let first = self.shared.index().schedule.of_message(message).first().map(|view| view.id);
        let Some(job) = first else { return Ok(None) };
        content::content(&self.shared, job).await.map(Some)
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        act::all(Arc::clone(&self.shared), filter, action)
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let mut index = self.shared.index();
        index.schedule.advance(self.shared.now());
        index.sweep();
        let counts = index.schedule.counts();
        Ok(Stats {
            messages: counts.messages,
            content_bytes: counts.content_bytes,
            ready: counts.ready,
            active: counts.active,
            deferred: counts.deferred(),
            held: counts.held,
            quarantined: counts.quarantined,
            oldest_ready: index.schedule.oldest_ready(),
            store_bytes: self.shared.used_bytes(&index),
            store_limit_bytes: self.shared.limit_bytes(&index),
        })
    }
}

async fn load(held: Vec<Held>) -> Result<Vec<Box<dyn Lease>>, QueueError> {
    let mut leases: Vec<Box<dyn Lease>> = Vec::with_capacity(held.len());
    for held in held {
        match held.load().await {
            Ok(Some(lease)) => leases.push(Box::new(lease)),
            Ok(None) => {}
            // Those that could be read are of use; the others are due again.
            Err(_) if !leases.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(leases)
}
