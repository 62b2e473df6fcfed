//! One attempt with Maildirs: a copy of the message for each recipient that is due.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use mail_types::{Mailbox, Timestamp};
use message::trace;
use outcome::{Outcome, Verdict, due_recipients, expires};
use queue::{Content, ContentError, Job, Lease};
use tokio::time::Instant;
use tracing::warn;

use super::{Worker, locked};
use crate::log::{self, Stored};
use crate::maildir::{Begun, DiskError, Draft, Search, Store, Target, count};
use crate::metrics::Cause;
use crate::path;
use crate::recipient::{self, Place, Undelivered};
use crate::usage::{Room, Usage, Writing};

/// Recipients seen to between two settlements.
pub(super) const RECIPIENTS_MAX: usize = 100;

/// What the clocks of two machines may differ by.
const CLOCKS_APART: Duration = Duration::from_secs(300);

/// What an attempt came to.
pub(super) enum Attempted {
    Done {
        verdicts: Vec<Verdict>,
        obstacle: Option<Obstacle>,
        /// Where the mail went, or should have gone.
        relay: Box<str>,
    },
    /// The content is damaged for good.
    Damaged(Box<str>),
    /// Nothing may be recorded.
    LeaseLost,
}

/// Why all mail of a domain waits, but for a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Obstacle {
    /// The file system of the Maildirs is full.
    NoRoom,
    /// There is no session with the server to be had.
    Unreachable,
}

/// Why there is no copy.
enum Failure {
    Undelivered(Undelivered),
    Damaged(Box<str>),
    LeaseLost,
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Undelivered(Undelivered::from_disk(error))
    }
}

impl From<ContentError> for Failure {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Damaged(what) => Self::Damaged(what),
            ContentError::Unavailable(_) => Self::Undelivered(Undelivered::Content),
        }
    }
}

impl Worker {
    /// Whether a copy of a job may lie in a mailbox already, and have been read there.
    pub(super) fn search(&self, job: &Job) -> Search {
        let is_first = locked(&self.unsettled).insert(job.id);
        // What came later no process before this one had. Its arrival is by the ingress' clock.
        let is_ours = job.envelope.arrival >= self.started + CLOCKS_APART;
        if is_first && is_ours && job.attempts == 0 { Search::New } else { Search::Everywhere }
    }

    /// Counts and logs our own failures; what the sender is told does not name our files.
    pub(super) fn undelivered(&self, job: &Job, undelivered: &Undelivered) -> Outcome {
        let cause = match undelivered {
            Undelivered::NoRoom(error) => Some(("full", Some(error))),
            Undelivered::Disk(error) => Some(("broken", Some(error))),
            Undelivered::Content => Some(("content", None)),
            Undelivered::Absent
            | Undelivered::Uncertain
            | Undelivered::NoTable
            | Undelivered::NotHosted
            | Undelivered::LeadsElsewhere
            | Undelivered::LeadsToSeveral
            | Undelivered::Full
            | Undelivered::Unreachable => None,
        };
        if let Some((cause, error)) = cause {
            self.metrics.disk_failures.get_or_create(&Cause { cause }).inc();
            let reason = error.and_then(std::error::Error::source);
            warn!(
                id = %job.id,
                step = error.map(tracing::field::display),
                reason = reason.map(tracing::field::display),
                "{undelivered}"
            );
        }
        undelivered.outcome(runtime::clock::now())
    }

    /// Whether it may be too late for another attempt of a job when this one has been recorded.
    pub(super) fn is_last(&self, job: &Job) -> bool {
        runtime::clock::now() + self.lease >= expires(job, &self.terms.load().policy)
    }

    /// The mailboxes that an address stands for now; at least one.
    pub(super) async fn places(&self, address: &Mailbox) -> Result<Vec<Place>, Undelivered> {
        let table = self.domains.load_full();
        match (recipient::places(table.as_deref(), address), &table) {
            (Err(Undelivered::Absent), Some(table)) if !self.absence.is_proven(table).await => {
                Err(Undelivered::Uncertain)
            }
            (places, _) => places,
        }
    }
}

/// An attempt that writes into Maildirs.
pub(super) struct Copying<'a> {
    pub(super) worker: &'a Worker,
    pub(super) store: &'a Arc<Store>,
    pub(super) usage: &'a Usage,
    pub(super) search: Search,
}

impl Copying<'_> {
    /// Sees to the recipients that are due, one after the other.
    pub(super) async fn store_copies(
        &self,
        lease: &mut dyn Lease,
        job: &Job,
        at: Timestamp,
    ) -> Attempted {
        let (mut verdicts, mut obstacle) = (Vec::new(), None);
        // Who is left out of the last attempt has none.
        let max = if self.worker.is_last(job) { usize::MAX } else { RECIPIENTS_MAX };
        for index in due_recipients(job, &self.worker.terms.load().policy, at, max) {
            let outcome = match self.deliver(lease, job, index).await {
                Ok(()) => recipient::delivered(runtime::clock::now()),
                Err(Failure::Undelivered(undelivered)) => {
                    if matches!(undelivered, Undelivered::NoRoom(_)) {
                        obstacle = Some(Obstacle::NoRoom);
                    }
                    self.worker.undelivered(job, &undelivered)
                }
                Err(Failure::Damaged(what)) => return Attempted::Damaged(what),
                Err(Failure::LeaseLost) => return Attempted::LeaseLost,
            };
            verdicts.push(Verdict { recipient: index, outcome });
        }
        Attempted::Done { verdicts, obstacle, relay: "maildir".into() }
    }

    /// Stores a copy in each mailbox that a recipient stands for.
    async fn deliver(&self, lease: &mut dyn Lease, job: &Job, index: u32) -> Result<(), Failure> {
        let address = &job.recipients[index as usize].recipient.address;
        for place in self.worker.places(address).await.map_err(Failure::Undelivered)? {
            let started = Instant::now();
            let stored = self.store_copy(lease, job, index, &place).await?;
            let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            log::stored(job, &stored, took_ms);
        }
        Ok(())
    }

    async fn store_copy(
        &self,
        lease: &mut dyn Lease,
        job: &Job,
        index: u32,
        place: &Place,
    ) -> Result<Stored, Failure> {
        let Place { mailbox, storage, detail, .. } = place;
        let prefix = prefix(job, index);
        let mut content = lease.content().await?;
        let size = prefix.len() as u64 + content.size;
        let unique = path::unique_name(job, index);
        let inbox = self.store.inbox(storage);
        let target = Target::new(inbox, detail.clone(), unique, size);
        let stored = |is_repeat, folder| Stored {
            recipient: index,
            mailbox: mailbox.to_string(),
            folder,
            file: target.file_name(),
            size,
            is_repeat,
        };
        let first = content.chunks.next().await.transpose()?.unwrap_or_default();
        match self.begin(target.clone(), vec![prefix, first]).await? {
            Begun::Stored(folder) => {
                self.worker.metrics.already_stored.inc();
                Ok(stored(true, folder))
            }
            Begun::Writing(draft) => {
                let folder = draft.folder();
                let room = self.take_room(job, place, size).await?;
                self.finish(lease, draft, content).await?;
                if let Some(room) = room {
                    room.stored();
                    self.usage.tell(mailbox, storage);
                }
                self.worker.metrics.stored_bytes.inc_by(size);
                Ok(stored(false, folder))
            }
        }
    }

    /// Only now: what is there already needs no room. None where there is no quota.
    /// At the last attempt what was accepted is stored without it.
    async fn take_room(
        &self,
        job: &Job,
        place: &Place,
        size: u64,
    ) -> Result<Option<Writing<'_>>, Failure> {
        let Place { mailbox, storage, .. } = place;
        if storage.quota_bytes.is_none() {
            return Ok(None);
        }
        let mut room = self.usage.take(storage, size, Instant::now());
        if matches!(room, Room::Unknown) {
            let (inbox, now) = (self.store.inbox(storage), Instant::now());
            let counting = self.usage.count(storage.id);
            let held = self.blocking(move || count(&inbox).map_err(DiskError::at("count", &inbox)));
            counting.done(held.await?.bytes, now);
            room = self.usage.take(storage, size, now);
        }
        match room {
            Room::Enough(writing) => Ok(Some(writing)),
            // What is not known keeps no mail away.
            Room::Unknown => Ok(None),
            Room::Lacking if self.worker.is_last(job) => {
                Ok(Some(self.usage.take_anyway(storage, size)))
            }
            Room::Lacking => {
                self.usage.tell(mailbox, storage);
                Err(Failure::Undelivered(Undelivered::Full))
            }
        }
    }

    async fn begin(&self, target: Target, beginning: Vec<Bytes>) -> Result<Begun, DiskError> {
        let (store, search) = (Arc::clone(self.store), self.search);
        let now = runtime::clock::now();
        self.blocking(move || store.begin(target, search, &beginning, now)).await
    }

    /// Writes the rest; publishes it if the job is still ours.
    async fn finish(
        &self,
        lease: &mut dyn Lease,
        mut draft: Draft,
        mut content: Content,
    ) -> Result<(), Failure> {
        while let Some(chunk) = content.chunks.next().await {
            let chunk = chunk?;
            let write = move || {
                draft.write(&chunk)?;
                Ok(draft)
            };
            draft = self.blocking(write).await?;
        }
        if !draft.is_whole() {
            return Err(Failure::Damaged("the content does not have the size it had".into()));
        }
        lease.extend().await.map_err(|_| Failure::LeaseLost)?;
        Ok(self.blocking(move || draft.publish()).await?)
    }

    /// Does what blocks on a thread that may. The permit of the job bounds how many there are.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(DiskError::unfinished(self.store.root(), error)))
    }
}

/// What stands in front of the content in a mailbox (RFC 5321 §4.4).
fn prefix(job: &Job, index: u32) -> Bytes {
    let address = &job.recipients[index as usize].recipient.address;
    let return_path = trace::return_path(&job.envelope.reverse_path);
    (return_path + &trace::delivered_to(address)).into()
}
