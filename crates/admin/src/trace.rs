//! The way of a message, from the queue and from what it has forgotten.

use std::collections::BTreeMap;

use history::{Kept, Made, PastError, Remains, What};
use mail_types::{QueueId, Timestamp};
use queue::{FollowUpKind, Job, JobId, QueueError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::Sources;
use crate::view::JobView;

/// DSNs that are followed; a message has some for each of its jobs.
const DSNS_MAX: usize = 50;

/// From the connection to the last attempt, its DSNs included.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    pub message: TracedMessage,
    /// The DSNs that were made for it, at most 50.
    pub dsns: Vec<TracedMessage>,
    /// Processes that did not answer so that it can be read: what they know is missing.
    #[serde(default)]
    pub unheard: u32,
}

/// What is known of a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracedMessage {
    pub id: QueueId,
    /// Why we made it, if it is a DSN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    pub jobs: Vec<TracedJob>,
}

/// What a DSN tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    #[schema(value_type = String)]
    pub job: JobId,
    pub kind: FollowUpKind,
}

/// A job that is in the queue, or was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracedJob {
    #[schema(value_type = String)]
    pub id: JobId,
    /// None while it is in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ending>,
    /// As it is, or was when it ended: its phase says nothing then, and of its recipients it has
    /// the first 100. None of one that was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
}

/// How a job left the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    pub at: Timestamp,
    /// An operator dropped it without telling the sender.
    pub dropped: bool,
}

/// Why a way is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Past(#[from] PastError),
}

impl Trace {
    /// Whether anything is known of the message.
    pub fn is_empty(&self) -> bool {
        self.message.jobs.is_empty() && self.message.cause.is_none()
    }
}

pub(crate) async fn of(sources: &Sources, id: QueueId) -> Result<Trace, TraceError> {
    // A job that ends in between is in the history by the time that is read.
    let jobs = sources.queue.show(id).await?;
    let mut past = sources.past.of(id).await?;
    let message = merge(id, jobs, &past);
    let (mut dsns, mut has_news) = (Vec::new(), false);
    for (of, Made { id, kind }) in made_for(id, &past).into_iter().take(DSNS_MAX) {
        let jobs = sources.queue.show(id).await?;
        has_news |= jobs.is_empty() && !has_ended(id, &past);
        dsns.push((id, Cause { job: of, kind }, jobs));
    }
    if has_news {
        // A DSN was in the queue when the history was read, and is no more.
        past = sources.past.of(id).await?;
    }
    let dsns = dsns
        .into_iter()
        .map(|(id, cause, jobs)| TracedMessage { cause: Some(cause), ..merge(id, jobs, &past) });
    Ok(Trace { message, dsns: dsns.collect(), unheard: past.unheard })
}

fn of_message(id: QueueId, past: &Kept) -> impl Iterator<Item = &Remains> {
    past.remains.iter().filter(move |remains| remains.job.message == id)
}

/// The DSNs of a message. They have none of their own: their sender is the null sender.
fn made_for(id: QueueId, past: &Kept) -> Vec<(JobId, Made)> {
    let made = of_message(id, past).flat_map(|remains| match &remains.what {
        What::Settled(settled) => settled.made.iter().map(|made| (remains.job, *made)).collect(),
        What::Dropped | What::Made { .. } => Vec::new(),
    });
    let mut made: Vec<(JobId, Made)> = made.collect();
    made.sort_by_key(|(_, made)| made.id);
    made.dedup();
    made
}

fn has_ended(id: QueueId, past: &Kept) -> bool {
    of_message(id, past).any(|remains| match &remains.what {
        What::Settled(settled) => settled.is_done,
        What::Dropped => true,
        What::Made { .. } => false,
    })
}

fn merge(id: QueueId, jobs: Vec<Job>, past: &Kept) -> TracedMessage {
    let (mut known, mut cause) = (BTreeMap::new(), None);
    for &Remains { at, job, ref what } in of_message(id, past) {
        match what {
            What::Settled(settled) if settled.is_done => {
                let ended = Some(Ending { at, dropped: false });
                let state = settled.state.clone().into();
                known.insert(job, TracedJob { id: job, ended, job: Some(state) });
            }
            What::Settled(_) => {}
            What::Dropped => {
                let ended = Some(Ending { at, dropped: true });
                known.entry(job).or_insert(TracedJob { id: job, ended, job: None });
            }
            &What::Made { of, kind } => cause = Some(Cause { job: of, kind }),
        }
    }
    for job in jobs {
        // What was asked for first may be older than what has been written since.
        let traced = TracedJob { id: job.id, ended: None, job: Some(job.into()) };
        known.entry(traced.id).or_insert(traced);
    }
    TracedMessage { id, cause, jobs: known.into_values().collect() }
}
