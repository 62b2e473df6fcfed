//! A job in a worker's hands.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use queue::schedule::{LeaseLost, LeaseToken, Leased, Placement, View};
use queue::stored::{StoredMessage, StoredState};
use queue::{
    Content, ContentError, FollowUp, Job, Lease, LeaseReason, QueueError, SettleError, Settlement,
    Wait,
};

use crate::body::BodyWriter;
use crate::end;
use crate::index::Place;
use crate::intake;
use crate::names::{self, Door};
use crate::post;
use crate::read::{self, ReadError, ReadJob};
use crate::shared::Shared;
use crate::step::{self, Stepped};
use crate::streams::BODY_STREAMS;

/// How long a job waits whose records cannot be read now.
const UNREADABLE: Duration = Duration::from_secs(10);
/// Records that are absent for longer are lost.
const ABSENT_MAX: Duration = Duration::from_secs(10 * 60);
/// How often a settlement is made anew because an operator changed the job meanwhile.
const TRIES: usize = 16;

/// A job that was leased; given back when dropped.
pub(crate) struct Held {
    shared: Arc<Shared>,
    token: LeaseToken,
    reason: LeaseReason,
    view: View<Place>,
}

impl Held {
    pub(crate) fn new(shared: &Arc<Shared>, view: View<Place>, leased: &Leased<Place>) -> Self {
        let (token, reason) = (leased.token, leased.reason);
        Self { shared: Arc::clone(shared), token, reason, view }
    }

    /// Reads what is not in memory.
    pub(crate) async fn load(self) -> Result<Option<JetLease>, QueueError> {
        match read::read_job(&self.shared, self.view.id).await {
            Ok(read) => {
                let mut index = self.shared.index();
                index.absent.remove(&self.view.id);
                if read.is_none() {
                    // Its mark, or who made a record of it, came while it was leased.
                    let _ = index.schedule.finish(&self.token);
                }
                drop(index);
                Ok(read.map(|read| JetLease::new(self, read)))
            }
            Err(ReadError::Damaged(what)) => {
                self.set_aside(&what);
                Ok(None)
            }
            Err(ReadError::Absent(what)) if self.is_lost() => {
                self.set_aside(what);
                Ok(None)
            }
            Err(error) => {
                self.put_off(&error);
                Ok(None)
            }
        }
    }

    /// Whether the job's records have been absent for so long that nobody can know of them.
    fn is_lost(&self) -> bool {
        let now = self.shared.now();
        let since = *self.shared.index().absent.entry(self.view.id).or_insert(now);
        now.since(since) > ABSENT_MAX
    }

    /// A job that cannot be read now waits, so that those behind it need not.
    fn put_off(&self, error: &ReadError) {
        let job = self.view.id;
        tracing::error!(%job, %error, "a job cannot be read: tried again in ten seconds");
        let until = self.shared.now() + UNREADABLE;
        self.place(Placement::Deferred { until, wake_by: until, wait: Wait::Time });
    }

    /// A job whose records are damaged waits for an operator.
    fn set_aside(&self, reason: &str) {
        let job = self.view.id;
        tracing::error!(%job, reason, "the records of a job are damaged: quarantined");
        self.shared.metrics.quarantined.inc();
        self.place(Placement::Quarantined);
    }

    fn place(&self, placement: Placement) {
        let now = self.shared.now();
        // A lease that lapsed finds the fault again.
        let _ = self.shared.index().schedule.settle(&self.token, placement, self.view.payload, now);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What makes a worker panic is tried again when the lease lapses, not at once.
        if std::thread::panicking() {
            return;
        }
        self.shared.index().schedule.release(&self.token, self.shared.now());
        end::sweep(&self.shared);
        self.shared.changed.notify_waiters();
    }
}

pub(crate) struct JetLease {
    held: Held,
    job: Job,
    read: ReadJob,
    is_settled: bool,
}

impl JetLease {
    fn new(held: Held, read: ReadJob) -> Self {
        let job = read.state.job(read.source.message(), &held.view);
        Self { held, job, read, is_settled: false }
    }

    /// Chunks that are missing are no fault when the whole message is gone: then another, who had
    /// it in hand as well, has ended it.
    fn content_of_arrival(&self) -> Content {
        let content = self.read.source.content(&self.held.shared);
        if !self.read.source.has_chunks() {
            return content;
        }
        let (shared, token) = (Arc::clone(&self.held.shared), self.held.token);
        let chunks = content.chunks.then(move |chunk| {
            let shared = Arc::clone(&shared);
            async move {
                match chunk {
                    Err(ContentError::Damaged(what)) => Err(damaged(&shared, token, what).await),
                    chunk => chunk,
                }
            }
        });
        Content { size: content.size, chunks: chunks.boxed() }
    }
}

/// What it means that content of a message in an intake is not as it was: another may have ended
/// the message, and then the job is forgotten here.
async fn damaged(shared: &Shared, token: LeaseToken, what: Box<str>) -> ContentError {
    let job = token.job();
    match intake::has_ended(shared, job.message).await {
        Ok(true) => {}
        Ok(false) => return ContentError::Damaged(what),
        // Those who know whether it is there are those who were asked for it.
        Err(error) => return ContentError::Unavailable(error),
    }
    let mut index = shared.index();
    let is_in_intake = index.schedule.payload(job) == Some(&Place::Intake);
    // Without the lease it is not ours to forget.
    if is_in_intake && index.schedule.finish(&token).is_ok() {
        index.let_go(job.message);
        tracing::info!(id = %job, "it has ended elsewhere, and is forgotten here");
    }
    ContentError::Unavailable("the job has ended elsewhere".into())
}

#[async_trait]
impl Lease for JetLease {
    fn job(&self) -> &Job {
        &self.job
    }

    fn reason(&self) -> LeaseReason {
        self.held.reason
    }

    async fn content(&self) -> Result<Content, ContentError> {
        match self.read.place {
            // Known, whatever becomes of it meanwhile.
            Place::Intake => Ok(self.content_of_arrival()),
            Place::Record(..) => {
                let shared = &self.held.shared;
                Ok(read::source(shared, self.job.id).await?.content(shared))
            }
        }
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        let shared = &self.held.shared;
        if !shared.holds(&self.job.next_hop) {
            return Err(SettleError::LeaseLost);
        }
        let extended = shared.index().schedule.extend(&self.held.token, shared.now());
        extended.map_err(|LeaseLost| SettleError::LeaseLost)
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        if self.is_settled {
            return Ok(());
        }
        let outcome = Outcome {
            shared: Arc::clone(&self.held.shared),
            token: self.held.token,
            attempts: self.job.attempts,
            settlement: settlement.clone(),
            read: self.read.clone(),
        };
        // A task of its own: dropped half way, an outcome that is stored would not be known.
        let recorded = self.held.shared.tasks.spawn(outcome.record()).await;
        recorded.map_err(|error| SettleError::Unknown(error.into())).flatten()?;
        self.is_settled = true;
        Ok(())
    }

    async fn release(self: Box<Self>) {}
}

/// An outcome on its way into the queue.
struct Outcome {
    shared: Arc<Shared>,
    token: LeaseToken,
    attempts: u32,
    settlement: Settlement,
    read: ReadJob,
}

impl Outcome {
    async fn record(self) -> Result<(), SettleError> {
        let (shared, token) = (Arc::clone(&self.shared), self.token);
        shared.index().schedule.pin(&token, shared.now())?;
        let recorded = self.record_pinned().await;
        if recorded.is_err() {
            shared.index().schedule.unpin(&token, shared.now());
        }
        end::sweep(&shared);
        shared.changed.notify_waiters();
        recorded
    }

    async fn record_pinned(mut self) -> Result<(), SettleError> {
        let job = self.token.job();
        // One lease settles once: under this name the step is found again.
        let id = format!("{job}-{}-{:?}", self.shared.writer, self.token);
        for follow_up in &self.settlement.follow_ups {
            self.follow_up(follow_up).await?;
        }
        for _ in 0..TRIES {
            let next = self.read.state.settled(&self.settlement);
            let _turn = self.shared.turn(job).await;
            let stepped = step::step(&self.shared, job, &self.read, next.as_ref(), &id).await?;
            match stepped {
                Stepped::Gone | Stepped::At(_) => {
                    self.apply(stepped, next.as_ref());
                    return Ok(());
                }
                Stepped::Lost => return Err(SettleError::LeaseLost),
                Stepped::Changed => {}
            }
            self.refresh().await?;
        }
        Err(SettleError::Unavailable("the job changes all the time".into()))
    }

    fn apply(&self, stepped: Stepped, next: Option<&StoredState>) {
        let now = self.shared.now();
        let mut index = self.shared.index();
        let placement = next.and_then(StoredState::placement);
        // Pinned, the lease is ours.
        let _ = match (stepped, placement) {
            (Stepped::At(place), Some(placement)) => {
                index.schedule.settle(&self.token, placement, place, now)
            }
            _ => index.schedule.finish(&self.token).map(drop),
        };
    }

    /// Reads the records of the job again.
    async fn refresh(&mut self) -> Result<(), SettleError> {
        match read::read_job(&self.shared, self.token.job()).await {
            Ok(Some(read)) => {
                self.read = read;
                Ok(())
            }
            Ok(None) => Err(SettleError::LeaseLost),
            Err(error) => Err(SettleError::Unavailable(error.into())),
        }
    }

    async fn follow_up(&self, follow_up: &FollowUp) -> Result<(), SettleError> {
        let id = follow_up.id(self.token.job(), self.attempts);
        let message = StoredMessage {
            id,
            envelope: Arc::new(follow_up.envelope.clone()),
            jobs: follow_up.jobs.clone(),
            prefix_bytes: follow_up.head.prefix.len() as u64,
            header_bytes: follow_up.head.header.len() as u64,
            body_bytes: follow_up.body.len() as u64,
        };
        let stream = names::body_of(id, BODY_STREAMS);
        let mut body = BodyWriter::new(self.shared.broker.clone(), id, stream);
        let head = [&follow_up.head.prefix[..], &follow_up.head.header].concat().into();
        body.write(&follow_up.body).await?;
        let arrival = post::arrival(message, head, &mut body, &self.shared).await?;
        post::post(&self.shared, Door::Reserve, &arrival).await?;
        Ok(())
    }
}
