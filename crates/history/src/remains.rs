//! What is kept of a job.

use mail_types::{QueueId, Timestamp};
use queue::{Attempt, Disposition, FollowUpKind, Job, JobId, Settlement};
use serde::{Deserialize, Serialize};

/// Recipients of a job that are kept; of more, their number.
const RECIPIENTS_KEPT: usize = 100;

/// A line of the history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remains {
    pub at: Timestamp,
    pub job: JobId,
    pub what: What,
}

/// What happened to a job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// It ended, or caused messages and goes on.
    Settled(Box<Settled>),
    /// An operator dropped it without a word.
    Dropped,
    /// It came to be by what happened to another: its message is a DSN.
    Made { of: JobId, kind: FollowUpKind },
}

/// A job after an outcome was recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settled {
    /// As it was then; its phase says nothing.
    pub state: Job,
    /// All of its recipients: `state` has the first 100.
    pub recipients: u32,
    pub is_done: bool,
    pub made: Vec<Made>,
}

/// A message that a settlement caused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    pub id: QueueId,
    pub kind: FollowUpKind,
}

impl Remains {
    /// What is kept when `settlement` of `job` was recorded: nothing when the job just goes on.
    pub(crate) fn of_settlement(job: &Job, settlement: &Settlement, at: Timestamp) -> Vec<Self> {
        let is_done = settlement.disposition == Disposition::Done;
        if !is_done && settlement.follow_ups.is_empty() {
            return Vec::new();
        }
        let made: Vec<Made> = settlement
            .follow_ups
            .iter()
            .map(|follow_up| Made { id: follow_up.id(job.id, job.attempts), kind: follow_up.kind })
            .collect();
        let of = job.id;
        let caused = made.iter().map(|made| Self {
            at,
            job: JobId { message: made.id, index: 0 },
            what: What::Made { of, kind: made.kind },
        });
        let caused: Vec<Self> = caused.collect();
        let recipients = u32::try_from(job.recipients.len()).unwrap_or(u32::MAX);
        let settled = Settled { state: after(job, settlement), recipients, is_done, made };
        let own = Self { at, job: of, what: What::Settled(Box::new(settled)) };
        [own].into_iter().chain(caused).collect()
    }

    /// Whether it is about a message that came when `message` did: that one, or a DSN for it.
    pub(crate) fn came_with(&self, message: QueueId) -> bool {
        self.job.message.arrival() == message.arrival()
    }
}

/// A job as the settlement leaves it.
fn after(job: &Job, settlement: &Settlement) -> Job {
    let mut job = job.clone();
    for progress in &settlement.progress {
        for &place in &progress.recipients {
            if let Some(recipient) = job.recipients.get_mut(place as usize) {
                recipient.status = progress.status;
                recipient.last = Some(progress.report.clone());
            }
        }
    }
    job.recipients.truncate(RECIPIENTS_KEPT);
    if let Some(attempt) = &settlement.attempt {
        job.attempts += 1;
        job.history.push(attempt.clone());
        let surplus = job.history.len().saturating_sub(Attempt::KEPT);
        job.history.drain(..surplus);
    }
    job.next_attempt = None;
    job
}
