//! A message being received.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use mail_types::{Envelope, QueueId};
use queue::stored::StoredMessage;
use queue::{AcceptError, Admission, Draft, Head, NewJob};

use crate::body::BodyWriter;
use crate::broker::PublishError;
use crate::names::{self, Door};
use crate::post;
use crate::record::Arrival;
use crate::shared::Shared;

pub(crate) struct JetDraft {
    shared: Arc<Shared>,
    id: QueueId,
    envelope: Arc<Envelope>,
    admission: Admission,
    body: BodyWriter,
    octets: u64,
    /// What `commit` publishes, once its content is stored.
    arrival: Option<Arrival>,
    /// What became of a commit nobody said.
    is_unknown: bool,
    is_committed: bool,
}

/// Whether the store, and the tenant, has room for a message of `size` octets.
pub(crate) fn admit(
    shared: &Shared,
    envelope: &Envelope,
    admission: Admission,
    size: u64,
) -> Result<(), AcceptError> {
    if admission == Admission::Internal {
        return Ok(());
    }
    shared.body_bytes_asked.store(true, Ordering::Release);
    let body_bytes = shared.body_bytes.load(Ordering::Acquire);
    if body_bytes.saturating_add(size) > shared.config.body_bytes {
        return Err(AcceptError::Full);
    }
    let quota = shared.config.quota();
    let used = shared.index().usage(&envelope.tenant);
    if used.messages >= quota.messages || used.bytes.saturating_add(size) > quota.bytes {
        return Err(AcceptError::TenantQuota);
    }
    Ok(())
}

impl JetDraft {
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: QueueId,
        envelope: Envelope,
        admission: Admission,
    ) -> Self {
        let stream = names::body_of(id, crate::streams::BODY_STREAMS);
        let body = BodyWriter::new(shared.broker.clone(), id, stream);
        Self {
            shared,
            id,
            envelope: Arc::new(envelope),
            admission,
            body,
            octets: 0,
            arrival: None,
            is_unknown: false,
            is_committed: false,
        }
    }

    async fn prepare(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        let message = StoredMessage {
            id: self.id,
            envelope: Arc::clone(&self.envelope),
            jobs,
            prefix_bytes: head.prefix.len() as u64,
            header_bytes: head.header.len() as u64,
            body_bytes: self.octets,
        };
        admit(&self.shared, &self.envelope, self.admission, message.size())?;
        let head = [&head.prefix[..], &head.header].concat().into();
        let arrival = post::arrival(message, head, &mut self.body, &self.shared).await;
        self.arrival = Some(arrival.map_err(not_kept)?);
        Ok(())
    }

    async fn post(&self, arrival: &Arrival) -> Result<(), PublishError> {
        let door = match self.admission {
            Admission::Outside => Door::Outside,
            Admission::Internal => Door::Reserve,
        };
        let (shared, message) = (&self.shared, &arrival.message);
        shared.index().arriving.insert(self.id, self.envelope.tenant.clone(), message.size());
        let posted = post::post(shared, door, arrival).await;
        if !matches!(posted, Ok(()) | Err(PublishError::Unknown(_))) {
            shared.index().arriving.remove(self.id);
        }
        posted
    }
}

/// Content without its envelope is nothing that was kept.
fn not_kept(error: PublishError) -> AcceptError {
    match error {
        PublishError::Full(_) => AcceptError::Full,
        PublishError::Changed | PublishError::Refused(_) | PublishError::Unknown(_) => {
            AcceptError::Unavailable(error.into())
        }
    }
}

#[async_trait]
impl Draft for JetDraft {
    fn id(&self) -> QueueId {
        self.id
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError> {
        self.octets += bytes.len() as u64;
        self.body.write(&bytes).await.map_err(not_kept)
    }

    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        assert!(!jobs.is_empty(), "a message without a next hop would go nowhere");
        assert!(jobs.iter().all(|job| !job.recipients.is_empty()), "a job without a recipient");
        if self.is_committed {
            return Ok(());
        }
        if self.arrival.is_none() {
            self.prepare(head, jobs).await?;
        }
        let Some(arrival) = &self.arrival else { return Ok(()) };
        match self.post(arrival).await {
            Ok(()) => self.is_committed = true,
            // Refused now, it may have been kept before.
            Err(error) if self.is_unknown => return Err(AcceptError::Unknown(error.into())),
            Err(error) => {
                self.is_unknown = matches!(error, PublishError::Unknown(_));
                return Err(error.into());
            }
        }
        Ok(())
    }
}
