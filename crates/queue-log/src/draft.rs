//! A message being received.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use mail_types::{Envelope, QueueId};
use queue::stored::StoredMessage;
use queue::{AcceptError, Admission, Draft, Head, NewJob};
use tokio::sync::oneshot;

use crate::cache::Fresh;
use crate::content::body_path;
use crate::disk::{self, DiskFile};
use crate::index::{Counted, Effect, Files, Index, NewMessage};
use crate::record::{self, FilePart};
use crate::room::Promise;
use crate::shared::{Message, Outcome, Request, Shared, closed};

/// Octets of a large body that are gathered before they are written.
const WRITE_BYTES: usize = 512 << 10;

pub(crate) struct LogDraft {
    shared: Arc<Shared>,
    id: QueueId,
    envelope: Arc<Envelope>,
    admission: Admission,
    /// The body, or what is yet to be written of a large one.
    body: BytesMut,
    file: Option<BodyFile>,
    /// A commit whose future was dropped.
    pending: Option<oneshot::Receiver<Outcome>>,
    is_committed: bool,
    /// The log may have a record that names the file.
    may_be_kept: bool,
    /// False once octets of the body were lost: a failed write or sync is not tried again.
    is_whole: bool,
}

impl LogDraft {
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: QueueId,
        envelope: Envelope,
        admission: Admission,
    ) -> Self {
        let (envelope, body) = (Arc::new(envelope), BytesMut::new());
        shared.drafts().insert(id);
        Self {
            shared,
            id,
            envelope,
            admission,
            body,
            file: None,
            pending: None,
            is_committed: false,
            may_be_kept: false,
            is_whole: true,
        }
    }

    fn body_bytes(&self) -> u64 {
        self.body.len() as u64 + self.file.as_ref().map_or(0, |file| file.part.bytes)
    }

    /// Writes what was gathered of a large body; all of it, durably, at its end.
    async fn flush(&mut self, sync: Sync) -> Result<(), AcceptError> {
        if !std::mem::replace(&mut self.is_whole, false) {
            return Err(AcceptError::Unavailable("part of the body was not written".into()));
        }
        let promise = self.promise();
        self.is_whole = promise.is_err();
        let promise = promise?;
        let bytes = self.body.split().freeze();
        let mut file = self.file.take().unwrap_or_else(|| BodyFile::new(self.id));
        let shared = Arc::clone(&self.shared);
        let written = tokio::task::spawn_blocking(move || {
            let result = file.write(&shared, &bytes, sync);
            drop(promise);
            (file, result)
        });
        let (file, result) = written.await.map_err(|e| AcceptError::Unavailable(e.into()))?;
        self.file = Some(file);
        self.is_whole = result.is_ok();
        result.map_err(|error| {
            let full = [std::io::ErrorKind::StorageFull, std::io::ErrorKind::QuotaExceeded];
            let is_full = full.contains(&error.kind());
            if is_full { AcceptError::Full } else { AcceptError::Unavailable(error.into()) }
        })
    }

    /// The right to write what was gathered.
    fn promise(&self) -> Result<Promise, AcceptError> {
        let more = self.body.len() as u64;
        let octets = Octets { size: self.body_bytes(), more };
        let index = self.shared.index();
        admit(&self.shared, &index, &self.envelope, self.admission, octets)?;
        Ok(self.shared.room.promise(more))
    }

    /// What is let in counts at once: many that come together must not all see the same room.
    fn let_in(&self, size: u64, log_bytes: u64) -> Result<(), AcceptError> {
        let octets = Octets { size, more: log_bytes };
        let mut index = self.shared.index();
        admit(&self.shared, &index, &self.envelope, self.admission, octets)?;
        index.count(&self.envelope.tenant, size, log_bytes);
        Ok(())
    }

    async fn submit(&mut self, head: &Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        let rest = self.file.as_ref().map_or(FilePart::default(), |file| file.part);
        let message = Arc::new(StoredMessage {
            id: self.id,
            envelope: Arc::clone(&self.envelope),
            jobs,
            prefix_bytes: head.prefix.len() as u64,
            header_bytes: head.header.len() as u64,
            body_bytes: self.body_bytes(),
        });
        let body = if self.file.is_some() { Bytes::new() } else { self.body.clone().freeze() };
        let inline = vec![[&head.prefix[..], &head.header].concat().into(), body];
        let mut draft = record::Draft::new();
        draft.message(&message, &inline, rest);
        let record = draft.finish().map_err(|error| AcceptError::Unavailable(error.into()))?;
        let requests = self.shared.requests.clone();
        let permit = requests.reserve().await.map_err(|_| AcceptError::Unavailable(closed()))?;
        let files = if self.file.is_some() { Files::Some } else { Files::None };
        let size = message.size();
        let fresh = Some(Fresh { message: Arc::clone(&message), inline, rest });
        let log_bytes = u64::from(record.len());
        let counted = Counted::Arriving { log_bytes };
        let effect = Effect::Accepted(Box::new(NewMessage { message, fresh, files, counted }));
        let (reply, pending) = oneshot::channel();
        self.let_in(size, log_bytes)?;
        permit.send(Message::Append(Box::new(Request {
            record,
            expects: Vec::new(),
            effect,
            reply,
        })));
        self.pending = Some(pending);
        self.outcome().await
    }

    /// Waits for a commit that is on its way. Dropped, it is waited for by the next.
    async fn outcome(&mut self) -> Result<(), AcceptError> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        let outcome = Outcome::received(pending.await);
        self.pending = None;
        match outcome {
            Outcome::Durable => {
                self.is_committed = true;
                Ok(())
            }
            Outcome::Changed => Err(AcceptError::Unavailable("the message has changed".into())),
            Outcome::Full(_) => Err(AcceptError::Full),
            Outcome::Refused(error) => Err(AcceptError::Unavailable(error.into())),
            Outcome::Unknown(error) => {
                self.may_be_kept = true;
                Err(AcceptError::Unknown(error.into()))
            }
        }
    }
}

/// How large a message is, as far as it is known.
#[derive(Clone, Copy, Default)]
pub(crate) struct Octets {
    pub(crate) size: u64,
    /// What has yet to be written.
    pub(crate) more: u64,
}

/// Whether a message may come in.
pub(crate) fn admit(
    shared: &Shared,
    index: &Index,
    envelope: &Envelope,
    admission: Admission,
    octets: Octets,
) -> Result<(), AcceptError> {
    if shared.is_closed() {
        return Err(AcceptError::Unavailable(closed()));
    }
    if admission == Admission::Internal {
        return Ok(());
    }
    if shared.is_full(index, octets.more) {
        return Err(AcceptError::Full);
    }
    let quota = shared.config.quota();
    let is_limited = quota.messages != u64::MAX || quota.bytes != u64::MAX;
    if is_limited && !index.usage(&envelope.tenant).admits(octets.size, quota) {
        return Err(AcceptError::TenantQuota);
    }
    Ok(())
}

#[async_trait]
impl Draft for LogDraft {
    fn id(&self) -> QueueId {
        self.id
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), AcceptError> {
        self.body.extend_from_slice(&bytes);
        let inline = self.shared.config.inline_body_bytes as usize;
        let limit = if self.file.is_some() { WRITE_BYTES } else { inline };
        if self.body.len() > limit {
            self.flush(Sync::Later).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, head: Head, jobs: Vec<NewJob>) -> Result<(), AcceptError> {
        assert!(!jobs.is_empty(), "a message without jobs");
        assert!(jobs.iter().all(|job| !job.recipients.is_empty()), "a job without recipients");
        if self.pending.is_some()
            && let Err(error @ AcceptError::Unknown(_)) = self.outcome().await
        {
            return Err(error);
        }
        if self.is_committed {
            return Ok(());
        }
        if self.file.is_some() || !self.is_whole {
            self.flush(Sync::Now).await?;
        }
        self.submit(&head, jobs).await
    }
}

/// A draft that was not committed leaves nothing but a file that nothing refers to.
impl Drop for LogDraft {
    fn drop(&mut self) {
        // A commit that is under way goes on without us: its file stays until the index has it.
        if self.pending.is_none() {
            self.shared.drafts().remove(&self.id);
        }
        if let Some(file) = &self.file
            && !self.is_committed
            && !self.may_be_kept
            && self.pending.is_none()
        {
            file.remove(&self.shared);
        }
    }
}

/// When what is written has to be durable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Later,
    /// Its octets; the caller syncs the directory.
    File,
    Now,
}

/// The body of a message in a file of its own.
pub(crate) struct BodyFile {
    path: String,
    file: Option<Arc<dyn DiskFile>>,
    pub(crate) part: FilePart,
    is_durable: bool,
}

impl BodyFile {
    pub(crate) fn new(id: QueueId) -> Self {
        Self::at(body_path(id))
    }

    pub(crate) fn at(path: String) -> Self {
        Self { path, file: None, part: FilePart::default(), is_durable: false }
    }

    /// Appends. After an error the file is the length that it was.
    pub(crate) fn write(
        &mut self,
        shared: &Shared,
        bytes: &[u8],
        sync: Sync,
    ) -> std::io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(shared.disk.create(&self.path)?),
        };
        if !bytes.is_empty() {
            let write = || file.write_at(self.part.bytes, &mut [IoSlice::new(bytes)]);
            shared.room.taking(bytes.len() as u64, write)?;
            self.part.bytes += bytes.len() as u64;
            self.part.crc = crc32c::crc32c_append(self.part.crc, bytes);
            self.is_durable = false;
            shared.file_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        if sync != Sync::Later && !self.is_durable {
            file.sync()?;
            if sync == Sync::Now {
                shared.disk.sync_dir(disk::CONTENT)?;
            }
            self.is_durable = true;
        }
        Ok(())
    }

    pub(crate) fn remove(&self, shared: &Shared) {
        if self.file.is_none() {
            return;
        }
        shared.freed(self.part.bytes);
        if let Err(error) = shared.disk.remove(&self.path) {
            tracing::warn!(path = self.path, %error, "cannot delete an unused file of content");
        }
    }
}
