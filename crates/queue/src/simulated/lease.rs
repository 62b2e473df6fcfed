//! A job in a worker's hands.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use mail_types::QueueId;

use super::Shared;
use super::faults::{Fault, Step, cause};
use crate::contract::{Content, ContentError, Lease, SettleError};
use crate::model::{Job, LeaseReason, Settlement};
use crate::schedule::{LeaseLost, LeaseToken, Leased};

const CHUNK: usize = 1 << 20;

pub(super) struct SimulatedLease {
    shared: Arc<Shared>,
    epoch: u64,
    token: LeaseToken,
    reason: LeaseReason,
    job: Job,
}

impl SimulatedLease {
    pub(super) fn boxed(
        shared: Arc<Shared>,
        epoch: u64,
        leased: &Leased<()>,
        job: Job,
    ) -> Box<dyn Lease> {
        Box::new(Self { shared, epoch, token: leased.token, reason: leased.reason, job })
    }
}

impl From<LeaseLost> for SettleError {
    fn from(LeaseLost: LeaseLost) -> Self {
        Self::LeaseLost
    }
}

/// The content of a message; `None` when it is not there.
pub(super) fn content(shared: &Shared, message: QueueId) -> Result<Option<Content>, ContentError> {
    let mut store = shared.lock();
    store.faults.ask(Step::Content).map_err(ContentError::Unavailable)?;
    let Some((mut bytes, health)) = store.content(message) else { return Ok(None) };
    let size = bytes.len() as u64;
    let mut chunks: Vec<Result<Bytes, ContentError>> = Vec::new();
    while !bytes.is_empty() {
        chunks.push(Ok(bytes.split_to(bytes.len().min(CHUNK))));
    }
    if let Err(damage) = health {
        chunks.pop();
        chunks.push(Err(ContentError::Damaged(damage)));
    }
    Ok(Some(Content { size, chunks: stream::iter(chunks).boxed() }))
}

#[async_trait]
impl Lease for SimulatedLease {
    fn job(&self) -> &Job {
        &self.job
    }

    fn reason(&self) -> LeaseReason {
        self.reason
    }

    async fn content(&self) -> Result<Content, ContentError> {
        let content = content(&self.shared, self.job.id.message)?;
        content.ok_or_else(|| ContentError::Damaged("the message is not there".into()))
    }

    async fn extend(&mut self) -> Result<(), SettleError> {
        let mut store = self.shared.lock();
        if store.epoch() != self.epoch {
            return Err(SettleError::LeaseLost);
        }
        store.faults.ask(Step::Extend).map_err(SettleError::Unavailable)?;
        Ok(store.schedule.extend(&self.token, self.shared.now())?)
    }

    async fn settle(&mut self, settlement: &Settlement) -> Result<(), SettleError> {
        let mut store = self.shared.lock();
        if store.epoch() != self.epoch {
            return Err(SettleError::LeaseLost);
        }
        if store.is_recorded(&self.token) {
            return Ok(());
        }
        let now = self.shared.now();
        store.schedule.extend(&self.token, now)?;
        let fault = store.faults.draw(Step::Settle);
        if !matches!(fault, Some(Fault::Unavailable | Fault::UnknownLost)) {
            store.settle(&self.token, settlement, now)?;
            self.shared.changed.notify_waiters();
        }
        match fault {
            None => Ok(()),
            Some(Fault::Unavailable) => Err(SettleError::Unavailable(cause())),
            Some(Fault::UnknownKept | Fault::UnknownLost) => Err(SettleError::Unknown(cause())),
        }
    }

    async fn release(self: Box<Self>) {}
}

/// Releasing is dropping: a lease that was settled has nothing left to give back.
impl Drop for SimulatedLease {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut store = self.shared.lock();
        if store.epoch() == self.epoch {
            store.release(&self.token, self.shared.now());
            self.shared.changed.notify_waiters();
        }
    }
}
