//! A job as an operator sees it.

use mail_types::{Envelope, Recipient, Timestamp};
use queue::{Attempt, Forward, Job, JobId, Phase, RecipientState, RecipientStatus, Report};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A [`Job`] in JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    #[schema(value_type = String)]
    pub id: JobId,
    pub phase: Phase,
    pub envelope: Envelope,
    pub next_hop: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    pub size: u64,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    pub recipients: Vec<RecipientView>,
    pub history: Vec<Attempt>,
    pub delay_reported: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_reason: Option<Box<str>>,
}

/// A recipient in JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecipientView {
    pub recipient: Recipient,
    pub status: RecipientStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Report>,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        let recipient = |state: RecipientState| RecipientView {
            recipient: state.recipient,
            status: state.status,
            last: state.last,
        };
        Self {
            id: job.id,
            phase: job.phase,
            envelope: (*job.envelope).clone(),
            next_hop: job.next_hop.to_string(),
            forward: job.forward,
            size: job.size,
            attempts: job.attempts,
            next_attempt: job.next_attempt,
            recipients: job.recipients.into_iter().map(recipient).collect(),
            history: job.history,
            delay_reported: job.delay_reported,
            quarantine_reason: job.quarantine_reason,
        }
    }
}
