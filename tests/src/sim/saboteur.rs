//! A queue that breaks its contract once: the books must show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mail_types::{Envelope, QueueId, Timestamp};
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Disposition, Draft, Filter, Head,
    HopKind, Job, JobSummary, Lease, LeaseReason, NewJob, NextHop, Queue, QueueError, SettleError,
    Settlement, Stats,
};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crime {
    /// Says `Ok` to a commit and keeps nothing.
    FalseOk,
    /// Takes a deferral for the end of the job.
    DropDeferral,
    /// Gives a job to two workers.
    DoubleLease,
}

/// The queue, around one that keeps the contract.
#[derive(Clone)]
pub struct Saboteur {
    real: Arc<dyn Queue>,
    plot: Arc<Plot>,
}

struct Plot {
    crime: Crime,
    done: AtomicBool,
}

impl Saboteur {
    pub fn new(real: Arc<dyn Queue>, crime: Crime) -> Self {
        Self { real, plot: Arc::new(Plot { crime, done: AtomicBool::new(false) }) }
    }

    /// Whether it has had its opportunity.
    pub fn has_struck(&self) -> bool {
        self.plot.done.load(Ordering::SeqCst)
    }

    fn wrap(&self, real: Box<dyn Lease>) -> Box<dyn Lease> {
        Box::new(CrookedLease { real, plot: Arc::clone(&self.plot) })
    }
}

impl Plot {
    /// True once: for the crime that is planned, at the first opportunity.
    fn strikes(&self, crime: Crime) -> bool {
        self.crime == crime && !self.done.swap(true, Ordering::SeqCst)
    }
}

#[async_trait]
impl Queue for Saboteur {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        let real = self.real.begin(envelope, admission).await?;
        Ok(Box::new(CrookedDraft { real, plot: Arc::clone(&self.plot) }))
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        let mut leases: Vec<Box<dyn Lease>> = Vec::new();
        for real in self.real.lease(kind, max, per_hop).await? {
            // A worker drops what is more than it asked for; a mailbox keeps one copy anyway.
            let fit = leases.is_empty() && max > 1 && is_plain(real.job());
            if fit && self.plot.strikes(Crime::DoubleLease) {
                let content = real.content().await.map_err(|_| QueueError::Closed)?;
                leases.push(Box::new(Twin::of(&*real, content).await));
            }
            leases.push(self.wrap(real));
        }
        leases.truncate(max);
        Ok(leases)
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        Ok(self.real.lease_more(hop).await?.map(|lease| self.wrap(lease)))
    }

    fn hop_down(&self, hop: &NextHop, until: Timestamp) {
        self.real.hop_down(hop, until);
    }

    fn hop_up(&self, hop: &NextHop) {
        self.real.hop_up(hop);
    }

    fn list(&self, filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        self.real.list(filter)
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        self.real.show(message).await
    }

    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError> {
        self.real.content(message).await
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        self.real.act(filter, action)
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        self.real.stats().await
    }
}

/// Whether the sink takes it at once.
fn is_plain(job: &Job) -> bool {
    let is_user = |address: String| address.starts_with("user-");
    job.recipients.iter().all(|r| is_user(r.recipient.address.to_string()))
}

struct CrookedDraft {
    real: Box<dyn Draft>,
    plot: Arc<Plot>,
}

#[async_trait]
impl Draft for CrookedDraft {
    fn id(&self) -> QueueId {
        self.real.id()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError> {
        self.real.write(bytes).await
    }

    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        if self.plot.strikes(Crime::FalseOk) {
            return Ok(());
        }
        self.real.commit(head, jobs).await
    }
}

struct CrookedLease {
    real: Box<dyn Lease>,
    plot: Arc<Plot>,
}

#[async_trait]
impl Lease for CrookedLease {
    fn job(&self) -> &Job {
        self.real.job()
    }

    fn reason(&self) -> LeaseReason {
        self.real.reason()
    }

    async fn content(&self) -> Result<Content, ContentError> {
        self.real.content().await
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        self.real.extend().await
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        let deferral = matches!(settlement.disposition, Disposition::Defer { .. });
        if deferral && self.plot.strikes(Crime::DropDeferral) {
            let mut settlement = settlement.clone();
            settlement.disposition = Disposition::Done;
            return self.real.settle(&settlement).await;
        }
        self.real.settle(settlement).await
    }

    async fn release(self: Box<Self>) {
        self.real.release().await;
    }
}

/// A second lease of a job that is another worker's.
struct Twin {
    job: Job,
    reason: LeaseReason,
    content: Vec<Bytes>,
}

impl Twin {
    async fn of(lease: &dyn Lease, content: Content) -> Self {
        use futures::TryStreamExt;
        let content = content.chunks.try_collect().await.unwrap_or_default();
        Self { job: lease.job().clone(), reason: lease.reason(), content }
    }
}

#[async_trait]
impl Lease for Twin {
    fn job(&self) -> &Job {
        &self.job
    }

    fn reason(&self) -> LeaseReason {
        self.reason
    }

    async fn content(&self) -> Result<Content, ContentError> {
        use futures::StreamExt;
        let chunks: Vec<_> = self.content.iter().cloned().map(Ok).collect();
        let chunks = futures::stream::iter(chunks).boxed();
        Ok(Content { size: self.job.size, chunks })
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        Ok(())
    }

    async fn settle(&mut self, _: &Settlement) -> Result<(), SettleError> {
        Ok(())
    }

    async fn release(self: Box<Self>) {}
}
