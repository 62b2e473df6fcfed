//! The promises between those who accept mail, those who deliver it, and the store between them.

use std::error::Error;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mail_types::{Envelope, QueueId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{
    Action, Filter, Head, HopKind, Job, JobId, JobSummary, LeaseReason, NewJob, NextHop,
    Settlement, Stats,
};

/// A durable queue of mail.
///
/// **Accepting.** `begin`, any number of `write`s, `commit`. When `commit` has returned `Ok`, the
/// message and all its jobs survive a crash of the process and of the machine; then, and only then,
/// the client is told `250`.
///
/// **Delivering.** A lease makes a job one worker's for a time. `settle` records what became of it
/// in one durable step; what is neither settled nor released comes back when its lease lapses. A
/// job is therefore delivered *at least* once, and twice only when a fault fell between the next
/// hop's `250` and the end of `settle`.
///
/// Dropping any future of this contract leaves the queue consistent: an operation whose future was
/// dropped has either happened or not.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Starts a message. Nothing is kept until `commit`.
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError>;

    /// Leases up to `max` jobs of a kind, waiting until there is at least one.
    ///
    /// A next hop of which `per_hop` jobs are leased already is passed over. Next hops take turns,
    /// and so do tenants within them: none waits for another's backlog.
    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError>;

    /// Leases one more job of a next hop if one is due now: what a connection in hand takes next.
    ///
    /// Not bounded by `per_hop`: the caller gives a lease back for it. Returns `None` when another
    /// next hop has waited for its turn longer than the fair share allows.
    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError>;

    /// Says that a next hop cannot be reached. Until `until` none of its jobs is leased but for a
    /// [`LeaseReason::Deadline`]; then one, as a [`LeaseReason::Probe`].
    ///
    /// This saves attempts and is not kept over a crash: each job has its own next attempt.
    fn hop_down(&self, hop: &NextHop, until: Timestamp);

    /// Says that a next hop was reached: jobs deferred with [`crate::Wait::Hop`] are due now,
    /// others keep their time.
    fn hop_up(&self, hop: &NextHop);

    /// The jobs that match, in order of arrival, without stopping the queue meanwhile.
    fn list(&self, filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>>;

    /// The jobs of a message with their history; empty when the queue does not have it.
    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError>;

    /// What a lease of one of its jobs would give, for an operator, whoever has the lease; `None`
    /// when the queue does not have the message.
    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError>;

    /// Does `action` to the jobs that match, and tells of each as it is done.
    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>>;

    async fn stats(&self) -> Result<Stats, QueueError>;
}

/// A message being received. Dropped before `commit` succeeded, it never was.
#[async_trait]
pub trait Draft: Send {
    /// The id under which it will be queued.
    fn id(&self) -> QueueId;

    /// Appends to the body. Slow when the store is.
    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError>;

    /// Makes the message durable with all its jobs, or nothing of it.
    ///
    /// May be repeated with the same arguments after [`AcceptError::Unknown`] and
    /// [`AcceptError::Unavailable`]; the message is then queued once. After `Ok`, a repeat is `Ok`.
    ///
    /// # Panics
    /// When `jobs` is empty or one of them has no recipient: that mail would go nowhere.
    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError>;
}

/// A job that is ours until the lease lapses. Dropping it gives the job back unsettled; dropped by
/// a panic, the job waits until the lease lapses, so that what is poison is not taken at once.
#[async_trait]
pub trait Lease: Send + Sync {
    fn job(&self) -> &Job;

    fn reason(&self) -> LeaseReason;

    /// The message from its first octet: prefix, header block, body.
    async fn content(&self) -> Result<Content, ContentError>;

    /// Keeps the job for another full lease time from now; the check before a step that cannot be
    /// taken back. `LeaseLost` means that somebody else may have the job: stop.
    async fn extend(&mut self) -> Result<(), SettleError>;

    /// Records an outcome. After an error other than `LeaseLost` the job is still ours, and the
    /// same settlement may be repeated: its follow-ups are made once.
    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError>;

    /// Gives the job back as it was, due at once.
    async fn release(self: Box<Self>);
}

/// Whom a message comes from, for the limits of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// From outside: refused when the store is short or the tenant has its fill.
    Outside,
    /// Made by us while draining (a forward): may use the reserve.
    Internal,
}

/// The content of a message as a stream of octets.
pub struct Content {
    /// How many octets the stream has.
    pub size: u64,
    /// Chunks of at most 1 MiB. After an error it ends.
    pub chunks: BoxStream<'static, Result<Bytes, ContentError>>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What became of an action on one job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Acted {
    #[schema(value_type = String)]
    pub job: JobId,
    pub result: ActResult,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum ActResult {
    Done,
    /// Recorded; it happens when the lease of the job ends, or a worker has seen to it.
    Requested,
    /// The job is not in a phase that the action applies to.
    NotApplicable,
}

/// The cause of a failure of the store, for the log.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a message was not accepted. Nothing of it is kept unless said so.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// `452 4.3.1`; passes when mail has drained.
    #[error("the queue is full")]
    Full,
    /// `452 4.2.2`; passes when the tenant's mail has drained.
    #[error("the tenant's share of the queue is full")]
    TenantQuota,
    /// `451 4.3.0`; nothing is kept.
    #[error("the queue cannot store mail now")]
    Unavailable(#[source] Cause),
    /// The message may have been kept, or not: repeat the same `commit`, and after the last try
    /// answer `451 4.3.0`.
    #[error("the queue did not say whether it stored the message")]
    Unknown(#[source] Cause),
}

/// Why an outcome was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The job is no longer ours; nothing was recorded.
    #[error("the lease has lapsed")]
    LeaseLost,
    /// Nothing was recorded; the same settlement may be repeated.
    #[error("the queue cannot record the outcome now")]
    Unavailable(#[source] Cause),
    /// It may have been recorded, or not; the same settlement may be repeated.
    #[error("the queue did not say whether it recorded the outcome")]
    Unknown(#[source] Cause),
}

/// Why content cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is damaged for good: settle with [`crate::Disposition::Quarantine`].
    #[error("the stored content is damaged: {0}")]
    Damaged(Box<str>),
    /// It may be readable later: release or defer.
    #[error("the stored content cannot be read now")]
    Unavailable(#[source] Cause),
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the queue does not answer")]
    Unavailable(#[source] Cause),
    /// The queue is shutting down: no more leases.
    #[error("the queue is closed")]
    Closed,
}
