//! What is stored for a message, and what is said about it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail_types::{
    Domain, Envelope, Host, Mailbox, QueueId, Recipient, Reply, ReversePath, TenantId, Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which role takes a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HopKind {
    /// Another MTA, by SMTP: the delivery worker's.
    Smtp,
    /// A mailbox store of ours: the MDA's.
    Mailbox,
}

/// Where a job goes. Chosen at commit; opaque to the queue but for equality.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NextHop {
    kind: HopKind,
    key: Box<str>,
}

impl NextHop {
    /// The mail exchangers of a domain, or the host of an address literal.
    pub fn smtp(host: &Host) -> Self {
        Self { kind: HopKind::Smtp, key: host.to_string().into() }
    }

    /// The mailbox store of a hosted domain.
    pub fn mailbox(domain: &Domain) -> Self {
        Self { kind: HopKind::Mailbox, key: domain.as_str().into() }
    }

    pub fn kind(&self) -> HopKind {
        self.kind
    }

    /// The host that [`Self::smtp`] or the domain that [`Self::mailbox`] was given.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            HopKind::Smtp => write!(f, "smtp:{}", self.key),
            HopKind::Mailbox => write!(f, "mailbox:{}", self.key),
        }
    }
}

/// One job of a message: its place in the list given to `commit`. Printed as `QUEUEID.0`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId {
    pub message: QueueId,
    pub index: u16,
}

/// A text that is no job id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a job id: a queue id, a full stop and a number")]
pub struct JobIdError;

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.message, self.index)
    }
}

impl FromStr for JobId {
    type Err = JobIdError;

    fn from_str(text: &str) -> Result<Self, JobIdError> {
        let (message, index) = text.split_once('.').ok_or(JobIdError)?;
        Ok(Self {
            message: message.parse().map_err(|_| JobIdError)?,
            index: index.parse().map_err(|_| JobIdError)?,
        })
    }
}

impl TryFrom<String> for JobId {
    type Error = JobIdError;

    fn try_from(text: String) -> Result<Self, JobIdError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

/// What stands before the body: known only at the end of data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Header fields that we add in front; empty or ending in CRLF.
    pub prefix: Bytes,
    /// The message's own header fields and the empty line after them, as received or edited.
    pub header: Bytes,
}

/// A job to be committed with its message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewJob {
    pub next_hop: NextHop,
    /// At least one.
    pub recipients: Vec<Recipient>,
    /// How its recipients came to be, if an alias of ours leads to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
}

impl NewJob {
    pub fn new(next_hop: NextHop, recipients: Vec<Recipient>) -> Self {
        Self { next_hop, recipients, forward: None }
    }
}

/// How a message is passed on that an alias of ours leads elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// What it leaves under. What its envelope says is where our own DSNs go.
    #[schema(value_type = String)]
    pub reverse_path: ReversePath,
    /// The alias, which a Delivered-To field names (RFC 9228): by it a loop is seen.
    #[schema(value_type = String)]
    pub delivered_to: Mailbox,
}

/// What became of a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum RecipientStatus {
    /// To be tried, for the first time or again.
    #[default]
    Pending,
    Delivered,
    /// Given up: failed, expired or cancelled. Its DSN, if one is due, is a follow-up.
    Bounced,
}

/// The last that was heard about a recipient.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Report {
    pub at: Timestamp,
    /// The host that said it; `None` when we said it ourselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Box<str>>,
    pub reply: Reply,
}

/// A recipient of a job, with what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecipientState {
    pub recipient: Recipient,
    pub status: RecipientStatus,
    pub last: Option<Report>,
}

/// One attempt, for `queue show`. A job keeps the last [`Attempt::KEPT`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Counted from 1.
    pub number: u32,
    pub at: Timestamp,
    pub took_ms: u64,
    /// `host[address]:port`, or the mailbox store; `None` when no host was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<str>>,
    pub delivered: u32,
    pub deferred: u32,
    pub bounced: u32,
    /// One reply that tells most about the attempt.
    pub reply: Reply,
}

impl Attempt {
    /// How many attempts a job's history keeps.
    pub const KEPT: usize = 8;
}

/// A job as it is leased or shown: a message for one next hop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub envelope: Arc<Envelope>,
    pub next_hop: NextHop,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// All recipients of the job in the order of `commit`, settled ones included.
    pub recipients: Vec<RecipientState>,
    /// Octets of the content: prefix, header block and body.
    pub size: u64,
    /// Attempts settled so far.
    pub attempts: u32,
    /// The last attempts, oldest first.
    pub history: Vec<Attempt>,
    /// Whether a delay DSN has been sent.
    pub delay_reported: bool,
    pub phase: Phase,
    /// When it is tried next; `None` unless ready or deferred.
    pub next_attempt: Option<Timestamp>,
    /// Why it was quarantined.
    pub quarantine_reason: Option<Box<str>>,
}

impl Job {
    /// What the message leaves under.
    pub fn reverse_path(&self) -> &ReversePath {
        let forward = self.forward.as_ref();
        forward.map_or(&self.envelope.reverse_path, |forward| &forward.reverse_path)
    }

    /// The recipients that are still to be tried, with their place in `recipients`.
    pub fn pending(&self) -> impl Iterator<Item = (u32, &RecipientState)> {
        (0u32..)
            .zip(&self.recipients)
            .filter(|(_, recipient)| recipient.status == RecipientStatus::Pending)
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Due, and waiting for a worker.
    Ready,
    /// Leased.
    Active,
    /// Waiting for its next attempt, or for its next hop to recover.
    Deferred,
    /// Stopped by an operator until released.
    Held,
    /// Its content cannot be read; kept for an operator.
    Quarantined,
}

/// Why a job was leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseReason {
    /// Its time has come.
    Due,
    /// Its next hop was down: this one job finds out whether it still is.
    Probe,
    /// Its `wake_by` has passed while its next hop is down: report or expire it, do not attempt.
    Deadline,
    /// An operator cancelled it with a DSN: bounce it, do not attempt.
    Cancelled,
}

/// What an attempt found out about some recipients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Places in [`Job::recipients`].
    pub recipients: Vec<u32>,
    pub status: RecipientStatus,
    pub report: Report,
}

/// The outcome of a lease, recorded in one durable step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settlement {
    /// `None` when there was no attempt: an expiry, a cancellation.
    pub attempt: Option<Attempt>,
    pub progress: Vec<Progress>,
    pub disposition: Disposition,
    pub follow_ups: Vec<FollowUp>,
    /// A delay DSN is among the follow-ups, or was waived.
    pub delay_reported: bool,
}

/// What happens to a job next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// No recipient is pending; the job is forgotten.
    Done,
    Defer {
        until: Timestamp,
        /// When it is leased at the latest, even while its next hop is down: the earlier of its
        /// next report of delay and its expiry.
        wake_by: Timestamp,
        waiting_for: Wait,
    },
    Hold,
    Quarantine {
        reason: Box<str>,
    },
}

/// What a deferred job waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wait {
    /// Its own time: greylisting, a full mailbox.
    Time,
    /// Its next hop, which could not be reached: it is due at once when the hop recovers.
    Hop,
}

/// A message that a settlement causes, committed in the same durable step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowUp {
    pub kind: FollowUpKind,
    pub envelope: Envelope,
    pub head: Head,
    pub body: Bytes,
    pub jobs: Vec<NewJob>,
}

/// Why a follow-up exists; with the job and the attempt it gives the id of its message, so that
/// settling twice makes it once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum FollowUpKind {
    FailedDsn,
    DelayedDsn,
    /// Delivered or relayed.
    SuccessDsn,
}

impl FollowUp {
    /// The id of this follow-up of `job`, settled after `attempts` earlier attempts.
    pub fn id(&self, job: JobId, attempts: u32) -> QueueId {
        let kind: u8 = match self.kind {
            FollowUpKind::FailedDsn => 1,
            FollowUpKind::DelayedDsn => 2,
            FollowUpKind::SuccessDsn => 3,
        };
        let message = job.message.to_bytes();
        let parts = [&message[..], &job.index.to_be_bytes(), &attempts.to_be_bytes(), &[kind]];
        QueueId::new(job.message.arrival(), fnv1a_128(parts.concat()))
    }
}

/// FNV-1a with 128 bits: stable between versions, which `std`'s hasher is not.
fn fnv1a_128(bytes: Vec<u8>) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.into_iter().fold(OFFSET, |hash, b| (hash ^ u128::from(b)).wrapping_mul(PRIME))
}

/// Which jobs an operator means. An empty filter means all; fields narrow it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    pub message: Option<QueueId>,
    pub tenant: Option<TenantId>,
    /// The reverse-path, without angle brackets; empty for the null sender; `@domain` for all of
    /// one.
    pub sender: Option<String>,
    /// Some recipient is in this domain.
    pub recipient_domain: Option<Domain>,
    pub phase: Option<Phase>,
    /// Arrived longer ago than this.
    pub older_than: Option<Duration>,
}

/// What an operator does to jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    Hold,
    /// Ends a hold or a quarantine: due at once.
    Release,
    /// Due at once, even while its next hop is down.
    RetryNow,
    /// Bounced to the sender by the role that owns the job.
    CancelWithDsn,
    /// Dropped without a word.
    CancelSilently,
}

/// A job in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSummary {
    #[schema(value_type = String)]
    pub id: JobId,
    pub phase: Phase,
    pub tenant: TenantId,
    /// The reverse-path, without angle brackets.
    pub sender: String,
    /// The pending recipients, at most [`JobSummary::RECIPIENTS_SHOWN`].
    pub recipients: Vec<String>,
    pub recipients_pending: u32,
    pub next_hop: String,
    pub size: u64,
    pub arrival: Timestamp,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<String>,
}

impl JobSummary {
    pub const RECIPIENTS_SHOWN: usize = 3;
}

/// The queue in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// On JetStream one that has jobs in several processes counts in each.
    pub messages: u64,
    /// Octets of content of all messages.
    pub content_bytes: u64,
    pub ready: u64,
    pub active: u64,
    pub deferred: u64,
    pub held: u64,
    pub quarantined: u64,
    /// Arrival of the oldest message that has a job ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ready: Option<Timestamp>,
    /// Octets that the store occupies.
    pub store_bytes: u64,
    /// Octets at which outside mail is refused.
    pub store_limit_bytes: u64,
}

impl Stats {
    /// Adds what another process has of the queue; the store is the same.
    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.content_bytes += other.content_bytes;
        self.ready += other.ready;
        self.active += other.active;
        self.deferred += other.deferred;
        self.held += other.held;
        self.quarantined += other.quarantined;
        self.oldest_ready = self.oldest_ready.into_iter().chain(other.oldest_ready).min();
        self.store_bytes = self.store_bytes.max(other.store_bytes);
        self.store_limit_bytes = self.store_limit_bytes.max(other.store_limit_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_print_and_parse() {
        let message = QueueId::new(Timestamp::from_unix_ms(1_795_388_895_042), 7);
        let id = JobId { message, index: 12 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "x.1", "01JD5ZQ9W3T8M1V5K7N2B4C6XR", "01JD5ZQ9W3T8M1V5K7N2B4C6XR.-1"] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }

    #[test]
    fn hashing_is_stable() {
        assert_eq!(fnv1a_128(b"a".to_vec()), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
