//! What the parts of an open queue have in common.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail_types::{QueueId, Timestamp};
use queue::contract::Cause;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::checkpoint::Position;
use crate::config::Config;
use crate::disk::Disk;
use crate::index::{Effect, Index, Places};
use crate::metrics::Metrics;
use crate::record::Record;
use crate::room::Room;
use queue::JobId;

pub(crate) type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) requests: mpsc::Sender<Message>,
    /// Something may be leased that could not be before.
    pub(crate) changed: Notify,
    /// One operator's action at a time.
    pub(crate) acting: Semaphore,
    /// The right to delete, rename or move what was committed: the janitor's, unless a snapshot is
    /// copied.
    pub(crate) unlinking: Arc<Semaphore>,
    /// Octets in files of content.
    pub(crate) file_bytes: AtomicU64,
    /// What the file system has left.
    pub(crate) room: Arc<Room>,
    /// The file system had less room than outside mail needs, or none for a segment.
    pub(crate) is_short: AtomicBool,
    /// The log cannot be written: outcomes could not be recorded, so nothing is leased.
    pub(crate) is_broken: AtomicBool,
    pub(crate) is_closed: AtomicBool,
    /// The segment that is appended to; all before it are read only.
    pub(crate) current: AtomicU32,
    /// Messages that are being received: their files are nobody's orphans, however old.
    drafts: Mutex<HashSet<QueueId>>,
    index: Mutex<Index>,
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        config: Config,
        clock: Clock,
        metrics: Metrics,
        requests: mpsc::Sender<Message>,
        index: Index,
    ) -> Self {
        Self {
            disk,
            config,
            clock,
            metrics,
            requests,
            changed: Notify::new(),
            acting: Semaphore::new(1),
            unlinking: Arc::new(Semaphore::new(1)),
            file_bytes: AtomicU64::new(0),
            room: Arc::default(),
            is_short: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            current: AtomicU32::new(0),
            drafts: Mutex::default(),
            index: Mutex::new(index),
        }
    }

    /// Never held over I/O.
    pub(crate) fn drafts(&self) -> MutexGuard<'_, HashSet<QueueId>> {
        self.drafts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never held over I/O.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Octets that the store occupies.
    pub(crate) fn used_bytes(&self, index: &Index) -> u64 {
        index.log_bytes() + self.file_bytes.load(Ordering::Relaxed)
    }

    /// Files of content have so much less.
    pub(crate) fn freed(&self, bytes: u64) {
        // A short write is freed that was never counted.
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.file_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Octets at which mail from outside is refused.
    pub(crate) fn limit_bytes(&self, index: &Index) -> u64 {
        self.config.max_bytes.unwrap_or_else(|| {
            let free = self.disk.free_bytes().unwrap_or(0);
            self.used_bytes(index) + free.saturating_sub(self.reserve_bytes())
        })
    }

    /// What mail from outside leaves free of the file system: any message may make the log begin
    /// another segment.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.config.min_free_bytes.saturating_add(self.config.segment_bytes.into())
    }

    /// Whether mail from outside has to wait until mail has drained that has `more` octets to be
    /// written.
    pub(crate) fn is_full(&self, index: &Index, more: u64) -> bool {
        let max = self.config.max_bytes.unwrap_or(u64::MAX);
        let coming = index.arriving_bytes().saturating_add(more);
        self.is_short.load(Ordering::Relaxed)
            || self.used_bytes(index).saturating_add(coming) > max
            // A batch that does not fit leaves as much of a segment unused as it takes, at most.
            || self.room.left() < self.reserve_bytes().saturating_add(coming.saturating_mul(2))
    }
}

/// What the writer is told.
pub(crate) enum Message {
    Append(Box<Request>),
    /// Look whether there is room again.
    Tick,
    /// Say where the log ends; all that was asked for before lies in front of it, synced.
    Position(oneshot::Sender<Position>),
    Stop,
}

/// A record to be made durable.
pub(crate) struct Request {
    pub(crate) record: Record,
    /// The jobs whose records it was made from: appended only if they are still the latest.
    pub(crate) expects: Vec<(JobId, Places)>,
    pub(crate) effect: Effect,
    pub(crate) reply: oneshot::Sender<Outcome>,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// On the disk, and in the index.
    Durable,
    /// Nothing was written: a job has other records by now.
    Changed,
    /// Nothing is kept: there is no room.
    Full(Arc<io::Error>),
    /// Nothing is kept.
    Refused(Arc<io::Error>),
    /// It may turn up after a crash, or not.
    Unknown(Arc<io::Error>),
}

pub(crate) fn closed() -> Cause {
    "the queue is closed".into()
}

impl Outcome {
    /// What a waiter gets: the writer is gone when it does not say, and nobody knows why.
    pub(crate) fn received(result: Result<Self, oneshot::error::RecvError>) -> Self {
        result.unwrap_or_else(|_| Self::Unknown(Arc::new(io::Error::other("the writer ended"))))
    }
}
