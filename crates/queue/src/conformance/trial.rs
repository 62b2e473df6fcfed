//! A queue on trial: what the checks do with it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use mail_types::{QueueId, Timestamp};

use super::mail::Mail;
use super::{Harness, Settings, VirtualClock};
use crate::contract::{
    AcceptError, ActResult, Admission, Content, ContentError, Draft, Lease, Queue,
};
use crate::model::{Action, Filter, HopKind, Job, JobSummary, LeaseReason, Settlement};

/// What is promised must happen within this.
const SOON: Duration = Duration::from_secs(20);
/// What must not happen is given this long to do so.
const LONG_ENOUGH: Duration = Duration::from_millis(40);
/// Chunks in which bodies are written.
const CHUNK: usize = 64 * 1024;

pub(super) struct Trial<H> {
    pub(super) harness: H,
    pub(super) clock: VirtualClock,
}

impl<H: Harness> Trial<H> {
    pub(super) async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(super) async fn with(settings: Settings) -> Self {
        Self::seeded(1, settings).await
    }

    pub(super) async fn seeded(seed: u64, settings: Settings) -> Self {
        let clock = VirtualClock::new(Timestamp::from_unix_ms(1_795_388_895_042));
        let harness = H::open(seed, settings, clock.clone()).await;
        Self { harness, clock }
    }

    pub(super) fn queue(&self) -> Arc<dyn Queue> {
        self.harness.queue()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub(super) async fn draft(&self, mail: &Mail) -> Result<Box<dyn Draft>, AcceptError> {
        let envelope = mail.envelope(self.now());
        let mut draft = self.queue().begin(envelope, Admission::Outside).await?;
        let mut body = mail.body.clone();
        while !body.is_empty() {
            draft.write(body.split_to(body.len().min(CHUNK))).await?;
        }
        Ok(draft)
    }

    pub(super) async fn try_send(&self, mail: &Mail) -> Result<QueueId, AcceptError> {
        let mut draft = self.draft(mail).await?;
        draft.commit(mail.head.clone(), mail.jobs.clone()).await?;
        Ok(draft.id())
    }

    pub(super) async fn send(&self, mail: &Mail) -> QueueId {
        self.try_send(mail).await.unwrap()
    }

    /// A job to an SMTP next hop, of which there must be one soon.
    pub(super) async fn lease(&self) -> Box<dyn Lease> {
        self.leases(1, usize::MAX).await.pop().unwrap()
    }

    pub(super) async fn leases(&self, max: usize, per_hop: usize) -> Vec<Box<dyn Lease>> {
        let leases = soon(self.queue().lease(HopKind::Smtp, max, per_hop)).await.unwrap();
        assert!(!leases.is_empty(), "`lease` returns when there is at least one");
        assert!(leases.len() <= max, "`lease` returns at most `max`");
        leases
    }

    /// All that may be leased now, perhaps none.
    pub(super) async fn lease_all(&self, per_hop: usize) -> Vec<Box<dyn Lease>> {
        let mut all = Vec::new();
        let queue = self.queue();
        while let Ok(leases) =
            tokio::time::timeout(LONG_ENOUGH, queue.lease(HopKind::Smtp, 100, per_hop)).await
        {
            all.extend(leases.unwrap());
        }
        all
    }

    /// What an operator is shown of a message that is there.
    pub(super) async fn content(&self, id: QueueId) -> Vec<u8> {
        read_all(self.queue().content(id).await.unwrap().unwrap()).await.unwrap()
    }

    pub(super) async fn nothing_due(&self, why: &str) {
        let leased = self.lease_all(usize::MAX).await;
        let leased: Vec<_> = leased.iter().map(|lease| (lease.job().id, lease.reason())).collect();
        assert!(leased.is_empty(), "{why}: {leased:?}");
    }

    /// Leases the next job, which must be of `message`, and settles it.
    pub(super) async fn settle_next(&self, message: QueueId, settlement: &Settlement) {
        let mut lease = self.lease().await;
        assert_eq!(lease.job().id.message, message);
        lease.settle(settlement).await.unwrap();
    }

    pub(super) async fn leased_with(
        &self,
        message: QueueId,
        reason: LeaseReason,
    ) -> Box<dyn Lease> {
        let lease = self.lease().await;
        assert_eq!((lease.job().id.message, lease.reason()), (message, reason));
        lease
    }

    pub(super) async fn jobs(&self, message: QueueId) -> Vec<Job> {
        self.queue().show(message).await.unwrap()
    }

    /// The one job of a message.
    pub(super) async fn job(&self, message: QueueId) -> Job {
        let mut jobs = self.jobs(message).await;
        assert_eq!(jobs.len(), 1, "jobs of {message}");
        jobs.remove(0)
    }

    pub(super) async fn list(&self, filter: Filter) -> Vec<JobSummary> {
        self.queue().list(filter).try_collect().await.unwrap()
    }

    pub(super) async fn act(&self, message: QueueId, action: Action) -> Vec<ActResult> {
        let filter = Filter { message: Some(message), ..Filter::default() };
        let acted = self.queue().act(filter, action);
        acted.map(|acted| acted.unwrap().result).collect().await
    }
}

/// The output of a future that must be ready soon.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it happens in time")
}

/// Reads the content that a lease names.
pub(super) async fn read(lease: &dyn Lease) -> Result<Vec<u8>, ContentError> {
    let content = lease.content().await?;
    assert_eq!(content.size, lease.job().size);
    read_all(content).await
}

pub(super) async fn read_all(mut content: Content) -> Result<Vec<u8>, ContentError> {
    let mut octets = Vec::new();
    while let Some(chunk) = content.chunks.next().await {
        let chunk = chunk?;
        assert!(chunk.len() <= 1 << 20, "chunks of at most 1 MiB");
        octets.extend_from_slice(&chunk);
    }
    assert_eq!(octets.len() as u64, content.size);
    Ok(octets)
}
