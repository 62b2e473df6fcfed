//! A queue whose outcomes become history.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use mail_types::{Envelope, QueueId, Timestamp};
use queue::{
    AcceptError, ActResult, Acted, Action, Admission, Content, ContentError, Draft, Filter,
    HopKind, Job, JobSummary, Lease, LeaseReason, NextHop, Queue, QueueError, SettleError,
    Settlement, Stats,
};

use crate::history::History;

/// Does what the queue below does, and tells the history of what was recorded.
pub struct Watched {
    queue: Arc<dyn Queue>,
    history: History,
}

impl Watched {
    pub fn new(queue: Arc<dyn Queue>, history: History) -> Self {
        Self { queue, history }
    }

    fn watch(&self, lease: Box<dyn Lease>) -> Box<dyn Lease> {
        Box::new(WatchedLease { lease, history: self.history.clone() })
    }
}

#[async_trait]
impl Queue for Watched {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        self.queue.begin(envelope, admission).await
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        let leases = self.queue.lease(kind, max, per_hop).await?;
        Ok(leases.into_iter().map(|lease| self.watch(lease)).collect())
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        let lease = self.queue.lease_more(hop).await?;
        Ok(lease.map(|lease| self.watch(lease)))
    }

    fn hop_down(&self, hop: &NextHop, until: Timestamp) {
        self.queue.hop_down(hop, until);
    }

    fn hop_up(&self, hop: &NextHop) {
        self.queue.hop_up(hop);
    }

    fn list(&self, filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        self.queue.list(filter)
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        self.queue.show(message).await
    }

    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError> {
        self.queue.content(message).await
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        let acted = self.queue.act(filter, action);
        if action != Action::CancelSilently {
            return acted;
        }
        let history = self.history.clone();
        let watched = acted.inspect_ok(move |acted| match acted.result {
            ActResult::Done | ActResult::Requested => history.dropped(acted.job),
            ActResult::NotApplicable => {}
        });
        watched.boxed()
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        self.queue.stats().await
    }
}

struct WatchedLease {
    lease: Box<dyn Lease>,
    history: History,
}

#[async_trait]
impl Lease for WatchedLease {
    fn job(&self) -> &Job {
        self.lease.job()
    }

    fn reason(&self) -> LeaseReason {
        self.lease.reason()
    }

    async fn content(&self) -> Result<Content, ContentError> {
        self.lease.content().await
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        self.lease.extend().await
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        self.lease.settle(settlement).await?;
        self.history.settled(self.lease.job(), settlement);
        Ok(())
    }

    async fn release(self: Box<Self>) {
        self.lease.release().await;
    }
}
