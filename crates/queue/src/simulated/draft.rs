//! A message being received.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use mail_types::{Envelope, QueueId};

use super::Shared;
use super::faults::{Fault, Step, cause};
use crate::contract::{AcceptError, Admission, Draft};
use crate::model::{Head, NewJob};

pub(super) struct SimulatedDraft {
    shared: Arc<Shared>,
    epoch: u64,
    id: QueueId,
    envelope: Arc<Envelope>,
    admission: Admission,
    body: BytesMut,
}

impl SimulatedDraft {
    pub(super) fn new(
        shared: Arc<Shared>,
        epoch: u64,
        id: QueueId,
        envelope: Envelope,
        admission: Admission,
    ) -> Self {
        let envelope = Arc::new(envelope);
        Self { shared, epoch, id, envelope, admission, body: BytesMut::new() }
    }
}

#[async_trait]
impl Draft for SimulatedDraft {
    fn id(&self) -> QueueId {
        self.id
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError> {
        self.body.extend_from_slice(&bytes);
        self.shared.lock().admit(self.admission, &self.envelope.tenant, self.body.len() as u64)
    }

    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        assert!(!jobs.is_empty(), "a message without jobs");
        assert!(jobs.iter().all(|job| !job.recipients.is_empty()), "a job without recipients");
        let mut store = self.shared.lock();
        if store.epoch() != self.epoch {
            return Err(AcceptError::Unavailable(cause()));
        }
        if store.is_known(self.id) {
            return Ok(());
        }
        let parts = [&head.prefix[..], &head.header, &self.body];
        let size = parts.iter().map(|part| part.len() as u64).sum();
        store.admit(self.admission, &self.envelope.tenant, size)?;
        let fault = store.faults.draw(Step::Commit);
        if !matches!(fault, Some(Fault::Unavailable | Fault::UnknownLost)) {
            store.keep(self.id, Arc::clone(&self.envelope), parts, jobs, self.shared.now());
            self.shared.changed.notify_waiters();
        }
        match fault {
            None => Ok(()),
            Some(Fault::Unavailable) => Err(AcceptError::Unavailable(cause())),
            Some(Fault::UnknownKept | Fault::UnknownLost) => Err(AcceptError::Unknown(cause())),
        }
    }
}
