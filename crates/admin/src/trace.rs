//! The way of a message, from the queue and from what it has forgotten.

use std::collections::BTreeMap;

use history::{Made, PastError, Remains, Settled, What};
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
    let (message, made) = look(sources, id).await?;
    let mut dsns = Vec::new();
    for (of, Made { id, kind }) in made.into_iter().take(DSNS_MAX) {
        // A DSN has no DSN: its sender is the null sender.
        let (mut dsn, _) = look(sources, id).await?;
        dsn.cause = Some(Cause { job: of, kind });
        dsns.push(dsn);
    }
    Ok(Trace { message, dsns })
}

/// The message, and what was made for it.
async fn look(
    sources: &Sources,
    id: QueueId,
) -> Result<(TracedMessage, Vec<(JobId, Made)>), TraceError> {
    // A job that ends in between is in the history by the time that is read.
    let jobs = sources.queue.show(id).await?;
    let remains = sources.past.of(id).await?;
    Ok(merge(id, jobs, remains))
}

fn merge(
    id: QueueId,
    jobs: Vec<Job>,
    remains: Vec<Remains>,
) -> (TracedMessage, Vec<(JobId, Made)>) {
    let (mut known, mut made) = (BTreeMap::new(), Vec::new());
    let mut cause = None;
    for Remains { at, job, what } in remains {
        match what {
            What::Settled(settled) => {
                let Settled { state, is_done, made: caused, .. } = *settled;
                made.extend(caused.into_iter().map(|made| (job, made)));
                if is_done {
                    let ended = Some(Ending { at, dropped: false });
                    let traced = TracedJob { id: job, ended, job: Some(state.into()) };
                    known.insert(job, traced);
                }
            }
            What::Dropped => {
                let ended = Some(Ending { at, dropped: true });
                known.entry(job).or_insert(TracedJob { id: job, ended, job: None });
            }
            What::Made { of, kind } => cause = Some(Cause { job: of, kind }),
        }
    }
    for job in jobs {
        // What was asked for first may be older than what has been written since.
        let traced = TracedJob { id: job.id, ended: None, job: Some(job.into()) };
        known.entry(traced.id).or_insert(traced);
    }
    made.sort_by_key(|(_, made)| made.id);
    made.dedup();
    (TracedMessage { id, cause, jobs: known.into_values().collect() }, made)
}
