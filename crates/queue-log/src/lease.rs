//! A job in a worker's hands.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use queue::contract::Cause;
use queue::schedule::{LeaseLost, LeaseToken, Leased, View};
use queue::stored::{StoredMessage, StoredState};
use queue::{
    Content, ContentError, FollowUp, Job, JobId, Lease, LeaseReason, QueueError, SettleError,
    Settlement, Wait,
};
use tokio::sync::oneshot;

use crate::cache::Fresh;
use crate::content::{self, ReadError, ReadJob};
use crate::draft::{BodyFile, Sync};
use crate::index::{Counted, Effect, Files, Index, NewMessage, Next, Places};
use crate::quarantine;
use crate::record::{self, FilePart};
use crate::shared::{Message, Outcome, Request, Shared, closed};

/// How long a job waits whose records cannot be read.
const UNREADABLE: Duration = Duration::from_secs(60);

/// How often a settlement is made anew because an operator changed the job meanwhile.
const TRIES: usize = 16;

/// A job that was leased; given back when dropped.
pub(crate) struct Held {
    shared: Arc<Shared>,
    token: LeaseToken,
    reason: LeaseReason,
    view: View<Places>,
    fresh: Option<Arc<StoredMessage>>,
}

impl Held {
    /// What is in memory of a job that was just leased.
    pub(crate) fn new(shared: &Arc<Shared>, index: &Index, leased: &Leased<Places>) -> Self {
        let (token, reason) = (leased.token, leased.reason);
        let id = token.job();
        // It was leased under the same lock.
        let view = index.schedule.get(id).expect("a leased job is in the schedule");
        let fresh = index.cache.get(id.message).map(|fresh| Arc::clone(&fresh.message));
        Self { shared: Arc::clone(shared), token, reason, view, fresh }
    }

    /// Reads what is not in memory.
    pub(crate) async fn load(mut self) -> Result<Option<LogLease>, QueueError> {
        let in_memory = self.fresh.take().filter(|_| self.view.payload.state.is_none());
        let read = match in_memory {
            Some(message) => Ok(Some(ReadJob {
                state: StoredState::fresh(&message.envelope),
                places: self.view.payload,
                message,
            })),
            None => read_job(&self.shared, self.view.id).await?,
        };
        match read {
            Ok(Some(read)) => Ok(Some(LogLease::new(self, read))),
            Ok(None) => Ok(None),
            Err(error) if error.is_damage() => {
                self.set_aside(&error).await;
                Ok(None)
            }
            Err(error) => {
                self.put_off(&error);
                Ok(None)
            }
        }
    }

    /// A job that cannot be read now waits, so that those behind it need not.
    fn put_off(&self, error: &ReadError) {
        let id = self.view.id;
        tracing::error!(job = %id, %error, "a job cannot be read: tried again in a minute");
        let now = self.shared.now();
        let until = now + UNREADABLE;
        let placement =
            queue::schedule::Placement::Deferred { until, wake_by: until, wait: Wait::Time };
        // A lease that lapsed finds the fault again.
        let _ = self.shared.index().schedule.settle(&self.token, placement, self.view.payload, now);
    }

    /// Copies a record that is damaged; what is not there at all is only counted.
    async fn keep(&self, error: &ReadError) {
        let Some(at) = error.damaged_at() else {
            self.shared.metrics.quarantined.inc();
            return;
        };
        let (shared, message) = (Arc::clone(&self.shared), self.view.id.message);
        let kept = tokio::task::spawn_blocking(move || quarantine::keep(&shared, message, at));
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(id = %message, %error, "cannot copy a damaged record")
            }
            Err(error) => tracing::error!(id = %message, %error, "copying a damaged record failed"),
        }
    }

    /// A job whose records are damaged waits for an operator.
    async fn set_aside(&self, error: &ReadError) {
        let id = self.view.id;
        tracing::error!(job = %id, %error, "the records of a job are damaged: quarantined");
        self.keep(error).await;
        let mut index = self.shared.index();
        let (token, now) = (&self.token, self.shared.now());
        let placement = queue::schedule::Placement::Quarantined;
        // A lease that lapsed finds the damage again.
        let _ = index.schedule.settle(token, placement, self.view.payload, now);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What makes a worker panic is tried again when the lease lapses, not at once.
        if std::thread::panicking() {
            return;
        }
        let mut index = self.shared.index();
        index.schedule.release(&self.token, self.shared.now());
        index.sweep();
        drop(index);
        self.shared.changed.notify_waiters();
    }
}

async fn read_job(
    shared: &Arc<Shared>,
    job: JobId,
) -> Result<Result<Option<ReadJob>, ReadError>, QueueError> {
    let shared = Arc::clone(shared);
    let read = tokio::task::spawn_blocking(move || content::read_job(&shared, job));
    read.await.map_err(|error| QueueError::Unavailable(error.into()))
}

pub(crate) struct LogLease {
    held: Held,
    job: Job,
    state: StoredState,
    places: Places,
    /// A settlement whose future was dropped.
    pending: Option<oneshot::Receiver<Outcome>>,
    is_settled: bool,
}

impl LogLease {
    fn new(held: Held, read: ReadJob) -> Self {
        let ReadJob { message, state, places } = read;
        let job = state.job(&message, &held.view);
        Self { held, job, state, places, pending: None, is_settled: false }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.held.shared
    }

    /// Sends the outcome to the log, unless the job has changed since it was read.
    async fn submit(
        &mut self,
        settlement: &Settlement,
        follow_ups: &[Prepared],
    ) -> Result<Outcome, SettleError> {
        let requests = self.shared().requests.clone();
        let permit = requests.reserve().await.map_err(|_| SettleError::Unavailable(closed()))?;
        let id = self.job.id;
        let mut draft = record::Draft::new();
        let settled = self.state.settled(settlement);
        let next = match &settled {
            Some(state) => {
                draft.state(id, state);
                Next::from(state.placement())
            }
            None => {
                draft.done(id);
                Next::Gone
            }
        };
        let new = self.new_follow_ups(follow_ups, &mut draft);
        let record = draft.finish().map_err(|error| SettleError::Unavailable(error.into()))?;
        let shared = &self.held.shared;
        shared.index().schedule.pin(&self.held.token, shared.now())?;
        let (token, places) = (self.held.token, self.places);
        let effect = Effect::Settled { token, places, next, follow_ups: new };
        let expects = vec![(id, places)];
        let (reply, pending) = oneshot::channel();
        permit.send(Message::Append(Box::new(Request { record, expects, effect, reply })));
        self.pending = Some(pending);
        Ok(self.outcome().await)
    }

    /// Waits for a settlement that is on its way. Dropped, it is waited for by the next.
    async fn outcome(&mut self) -> Outcome {
        let Some(pending) = &mut self.pending else { return Outcome::Changed };
        let outcome = Outcome::received(pending.await);
        self.pending = None;
        self.is_settled = matches!(outcome, Outcome::Durable);
        outcome
    }

    /// Puts the follow-ups that are not queued yet into the record.
    fn new_follow_ups(&self, all: &[Prepared], draft: &mut record::Draft) -> Vec<NewMessage> {
        let index = self.shared().index();
        let new: Vec<&Prepared> =
            all.iter().filter(|new| !index.schedule.has_message(new.message.id)).collect();
        drop(index);
        new.into_iter().map(|new| new.put(draft)).collect()
    }

    /// Reads the records of the job again.
    async fn refresh(&mut self) -> Result<(), SettleError> {
        let unavailable = |error: Cause| SettleError::Unavailable(error);
        let read = read_job(self.shared(), self.job.id).await;
        match read.map_err(|error| unavailable(error.into()))? {
            Ok(Some(read)) => {
                (self.state, self.places) = (read.state, read.places);
                Ok(())
            }
            Ok(None) => Err(SettleError::LeaseLost),
            Err(error) => Err(unavailable(error.into())),
        }
    }

    async fn prepare(&self, follow_ups: &[FollowUp]) -> Result<Vec<Prepared>, SettleError> {
        let mut prepared = Vec::with_capacity(follow_ups.len());
        for follow_up in follow_ups {
            let id = follow_up.id(self.job.id, self.job.attempts);
            let message = Arc::new(StoredMessage {
                id,
                envelope: Arc::new(follow_up.envelope.clone()),
                jobs: follow_up.jobs.clone(),
                prefix_bytes: follow_up.head.prefix.len() as u64,
                header_bytes: follow_up.head.header.len() as u64,
                body_bytes: follow_up.body.len() as u64,
            });
            let head = [&follow_up.head.prefix[..], &follow_up.head.header].concat().into();
            let is_large = follow_up.body.len() > self.shared().config.inline_body_bytes as usize;
            let (body, rest) = if is_large {
                (Bytes::new(), self.write_body(id, follow_up.body.clone()).await?)
            } else {
                (follow_up.body.clone(), FilePart::default())
            };
            prepared.push(Prepared { message, inline: vec![head, body], rest });
        }
        Ok(prepared)
    }

    async fn write_body(
        &self,
        id: mail_types::QueueId,
        body: Bytes,
    ) -> Result<FilePart, SettleError> {
        let shared = Arc::clone(self.shared());
        let written = tokio::task::spawn_blocking(move || {
            let mut file = BodyFile::new(id);
            file.write(&shared, &body, Sync::Now).map(|()| file.part)
        });
        let written = written.await.map_err(|error| SettleError::Unavailable(error.into()))?;
        written.map_err(|error| SettleError::Unavailable(error.into()))
    }
}

/// A follow-up that is ready for the log.
struct Prepared {
    message: Arc<StoredMessage>,
    inline: Vec<Bytes>,
    rest: FilePart,
}

impl Prepared {
    fn put(&self, draft: &mut record::Draft) -> NewMessage {
        draft.message(&self.message, &self.inline, self.rest);
        let (message, rest) = (Arc::clone(&self.message), self.rest);
        let fresh = Fresh { message: Arc::clone(&message), inline: self.inline.clone(), rest };
        let files = if rest.bytes == 0 { Files::None } else { Files::Some };
        NewMessage { message, fresh: Some(fresh), files, counted: Counted::No }
    }
}

#[async_trait]
impl Lease for LogLease {
    fn job(&self) -> &Job {
        &self.job
    }

    fn reason(&self) -> LeaseReason {
        self.held.reason
    }

    async fn content(&self) -> Result<Content, ContentError> {
        content::content(self.shared(), self.job.id).await
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        let shared = self.shared();
        let extended = shared.index().schedule.extend(&self.held.token, shared.now());
        Ok(extended.map_err(|LeaseLost| SettleError::LeaseLost)?)
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        if self.pending.is_some()
            && let Outcome::Unknown(error) = self.outcome().await
        {
            return Err(SettleError::Unknown(error.into()));
        }
        if self.is_settled {
            return Ok(());
        }
        let follow_ups = self.prepare(&settlement.follow_ups).await?;
        for _ in 0..TRIES {
            match self.submit(settlement, &follow_ups).await? {
                Outcome::Durable => return Ok(()),
                Outcome::Changed => self.refresh().await?,
                Outcome::Full(error) | Outcome::Refused(error) => {
                    return Err(SettleError::Unavailable(error.into()));
                }
                Outcome::Unknown(error) => return Err(SettleError::Unknown(error.into())),
            }
        }
        Err(SettleError::Unavailable("the job changes all the time".into()))
    }

    async fn release(self: Box<Self>) {}
}
