//! What the parts of an open queue have in common.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::connection::State;
use mail_types::Timestamp;
use queue::contract::Cause;
use queue::{JobId, NextHop};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backlog::Backlog;
use crate::broker::Broker;
use crate::config::Config;
use crate::crowd::Crowds;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::names::{Door, Lane, Partition};
use crate::ownership::Tenure;

pub(crate) type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) broker: Broker,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    /// Something may be leased that could not be before.
    pub(crate) changed: Notify,
    /// Octets in the body streams, as of the last look.
    pub(crate) body_bytes: AtomicU64,
    /// Somebody has asked for them since.
    pub(crate) body_bytes_asked: AtomicBool,
    /// Who sends faster than can be worked off.
    pub(crate) crowds: Crowds,
    /// The servers do not keep what they acknowledge.
    pub(crate) is_unsafe: AtomicBool,
    /// Partitions are given back, and no job is leased any more.
    pub(crate) leaving: CancellationToken,
    /// All ends, whatever is under way.
    pub(crate) closed: CancellationToken,
    /// Everything that goes on besides its callers.
    pub(crate) tasks: TaskTracker,
    /// Names this process in the records it writes: what it wrote, it knows.
    pub(crate) writer: String,
    tenures: Mutex<HashMap<Partition, Arc<Tenure>>>,
    backlog: Mutex<Backlog>,
    stepping: Mutex<HashSet<JobId>>,
    stepped: Notify,
    index: Mutex<Index>,
}

impl Shared {
    pub(crate) fn new(
        broker: Broker,
        config: Config,
        clock: Clock,
        metrics: Metrics,
        index: Index,
    ) -> Self {
        Self {
            broker,
            config,
            clock,
            metrics,
            changed: Notify::new(),
            body_bytes: AtomicU64::new(0),
            body_bytes_asked: AtomicBool::new(false),
            crowds: Crowds::default(),
            is_unsafe: AtomicBool::new(false),
            leaving: CancellationToken::new(),
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            writer: format!("{:016x}", rand::random::<u64>()),
            tenures: Mutex::default(),
            backlog: Mutex::default(),
            stepping: Mutex::default(),
            stepped: Notify::new(),
            index: Mutex::new(index),
        }
    }

    /// Never held over I/O. A panic under it leaves what one step left.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub(crate) fn partition(&self, hop: &NextHop) -> Partition {
        Partition::of(hop, self.config.partitions_of(hop.kind()))
    }

    /// The stream in which messages of a lane wait.
    pub(crate) fn stream(&self, door: Door, lane: Lane) -> String {
        door.stream(lane, self.config.intakes())
    }

    /// Whether mail can be kept at all, before a client has sent it.
    pub(crate) fn may_accept(&self) -> Result<(), Cause> {
        if self.is_unsafe.load(Ordering::Acquire) {
            return Err("the servers do not keep what they acknowledge".into());
        }
        if self.broker.client.connection_state() != State::Connected {
            return Err("no server is connected".into());
        }
        Ok(())
    }

    /// The partitions that are ours.
    pub(crate) fn tenures(&self) -> MutexGuard<'_, HashMap<Partition, Arc<Tenure>>> {
        self.tenures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions that are certainly ours.
    pub(crate) fn owned(&self) -> HashSet<Partition> {
        let tenures = self.tenures();
        let valid = tenures.values().filter(|tenure| tenure.is_valid());
        valid.map(|tenure| tenure.partition).collect()
    }

    /// What waits besides what the index knows.
    pub(crate) fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether jobs for a next hop may be leased here.
    pub(crate) fn serves(&self, hop: &NextHop) -> bool {
        let partition = self.partition(hop);
        self.tenures().get(&partition).is_some_and(|tenure| tenure.is_serving())
    }

    /// Whether a job for a next hop that was leased here is certainly still ours.
    pub(crate) fn holds(&self, hop: &NextHop) -> bool {
        let partition = self.partition(hop);
        self.tenures().get(&partition).is_some_and(|tenure| tenure.is_valid())
    }

    /// Waits until nobody else takes a step with the job, and keeps others waiting.
    pub(crate) async fn turn(self: &Arc<Self>, job: JobId) -> Turn {
        loop {
            let mut stepped = std::pin::pin!(self.stepped.notified());
            stepped.as_mut().enable();
            if self.steps().insert(job) {
                return Turn { shared: Arc::clone(self), job };
            }
            stepped.await;
        }
    }

    fn steps(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.stepping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to change what is stored of a job.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    job: JobId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.steps().remove(&self.job);
        self.shared.stepped.notify_waiters();
    }
}
