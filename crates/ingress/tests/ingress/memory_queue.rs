//! A queue that keeps messages in memory and fails when told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mail_types::{Envelope, QueueId, Timestamp};
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Draft, Filter, Head, HopKind,
    Job, JobSummary, Lease, NewJob, NextHop, Queue, QueueError, Stats,
};
use tokio::sync::Notify;

/// A message as it was committed.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) envelope: Envelope,
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    pub(super) body_octets: usize,
    pub(super) jobs: Vec<NewJob>,
}

impl Stored {
    pub(super) fn text(&self) -> String {
        let parts = [&self.head.prefix[..], &self.head.header, &self.body];
        String::from_utf8(parts.concat()).unwrap()
    }
}

/// What the next call is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Full,
    TenantQuota,
    Unavailable,
    Unknown,
    /// Kept, but the answer is lost.
    KeptUnknown,
}

#[derive(Default)]
pub(super) struct MemoryQueue {
    pub(super) stored: Mutex<Vec<(QueueId, Stored)>>,
    pub(super) begin: Mutex<VecDeque<Fault>>,
    pub(super) write: Mutex<VecDeque<Fault>>,
    pub(super) commit: Mutex<VecDeque<Fault>>,
    /// Drafts dropped without a commit.
    pub(super) discarded: Mutex<u32>,
    pub(super) changed: Notify,
    next: Mutex<u128>,
}

impl MemoryQueue {
    pub(super) fn messages(&self) -> Vec<Stored> {
        self.stored.lock().unwrap().iter().map(|(_, stored)| stored.clone()).collect()
    }
}

struct MemoryDraft {
    queue: Arc<MemoryQueue>,
    id: QueueId,
    envelope: Envelope,
    body: Vec<u8>,
    body_octets: usize,
    committed: bool,
}

/// So that a draft can outlive the borrow.
pub(super) struct Handle(pub(super) Arc<MemoryQueue>);

#[async_trait]
impl Queue for Handle {
    async fn begin(&self, envelope: Envelope, _: Admission) -> Result<Box<dyn Draft>, AcceptError> {
        fail(self.0.begin.lock().unwrap().pop_front())?;
        let mut next = self.0.next.lock().unwrap();
        *next += 1;
        Ok(Box::new(MemoryDraft {
            queue: Arc::clone(&self.0),
            id: QueueId::new(envelope.arrival, *next),
            envelope,
            body: Vec::new(),
            body_octets: 0,
            committed: false,
        }))
    }

    async fn lease(
        &self,
        _: HopKind,
        _: usize,
        _: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        Err(QueueError::Closed)
    }

    async fn lease_more(&self, _: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        Ok(None)
    }

    fn hop_down(&self, _: &NextHop, _: Timestamp) {}

    fn hop_up(&self, _: &NextHop) {}

    fn list(&self, _: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        stream::empty().boxed()
    }

    async fn show(&self, _: QueueId) -> Result<Vec<Job>, QueueError> {
        Ok(Vec::new())
    }

    async fn content(&self, _: QueueId) -> Result<Option<Content>, ContentError> {
        Ok(None)
    }

    fn act(&self, _: Filter, _: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        stream::empty().boxed()
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        Ok(Stats::default())
    }
}

#[async_trait]
impl Draft for MemoryDraft {
    fn id(&self) -> QueueId {
        self.id
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError> {
        fail(self.queue.write.lock().unwrap().pop_front())?;
        self.body_octets += bytes.len();
        if self.body.len() < 1024 * 1024 {
            self.body.extend_from_slice(&bytes);
        }
        Ok(())
    }

    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        assert!(!jobs.is_empty() && jobs.iter().all(|job| !job.recipients.is_empty()));
        let fault = self.queue.commit.lock().unwrap().pop_front();
        if fault.is_none_or(|fault| fault == Fault::KeptUnknown) {
            let stored = Stored {
                envelope: self.envelope.clone(),
                head,
                body: self.body.clone(),
                body_octets: self.body_octets,
                jobs,
            };
            let mut all = self.queue.stored.lock().unwrap();
            if !all.iter().any(|(id, _)| *id == self.id) {
                all.push((self.id, stored));
            }
            self.committed = true;
        }
        fail(fault)
    }
}

impl Drop for MemoryDraft {
    fn drop(&mut self) {
        if !self.committed {
            *self.queue.discarded.lock().unwrap() += 1;
        }
        self.queue.changed.notify_waiters();
    }
}

fn fail(fault: Option<Fault>) -> Result<(), AcceptError> {
    match fault {
        None => Ok(()),
        Some(Fault::Full) => Err(AcceptError::Full),
        Some(Fault::TenantQuota) => Err(AcceptError::TenantQuota),
        Some(Fault::Unavailable) => Err(AcceptError::Unavailable("disk".into())),
        Some(Fault::Unknown | Fault::KeptUnknown) => Err(AcceptError::Unknown("link".into())),
    }
}
