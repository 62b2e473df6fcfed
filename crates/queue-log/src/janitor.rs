//! What is done in the background: room is made, the index is saved, orphans are collected.
//!
//! Segments go from the oldest on, so that the end of a job is never forgotten before its
//! beginning. When the log is more than twice what is live in it, what is live in the oldest
//! segment moves: content to files of its own, once; records to the end of the log.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use futures::executor::block_on;
use mail_types::{QueueId, Timestamp};
use queue::stored::{StoredMessage, StoredState};
use queue::{JobId, Phase};
use tokio::sync::{SemaphorePermit, oneshot};

use crate::checkpoint::{self, Position};
use crate::content::{self, ReadError, Whole, body_path, front_path};
use crate::disk;
use crate::draft::{BodyFile, Sync};
use crate::index::{Effect, Location, Places};
use crate::quarantine::{self, Taken};
use crate::record;
use crate::segment::{self, DATA_START};
use crate::shared::{Message, Outcome, Request, Shared};

const TICK: Duration = Duration::from_secs(1);
/// Between two searches for files that nothing refers to.
const ORPHANS: Duration = Duration::from_secs(3600);
/// Segments that may lie idle however little is live.
const SLACK_SEGMENTS: u64 = 4;
/// Messages that are moved with one sync of their directory.
const MOVED_TOGETHER: usize = 64;

pub(crate) struct Janitor {
    shared: Arc<Shared>,
    pokes: Receiver<()>,
    /// The segment that was current at the last checkpoint.
    saved_at: u32,
    orphans_after: Option<Timestamp>,
}

impl Janitor {
    pub(crate) fn new(shared: Arc<Shared>, pokes: Receiver<()>) -> Self {
        Self { shared, pokes, saved_at: 0, orphans_after: None }
    }

    /// Before the queue is used. After damage nothing is collected: what seems to be an orphan may
    /// belong to a record that could not be read.
    pub(crate) fn begin(&mut self, is_damaged: bool) {
        match self.count_files() {
            Ok(bytes) => self.shared.file_bytes.store(bytes, Ordering::Relaxed),
            Err(error) => tracing::error!(%error, "cannot list the files of content"),
        }
        if !is_damaged {
            self.orphans_after = Some(self.shared.now());
        }
        self.look_at_room();
        self.free_dead();
    }

    pub(crate) fn run(mut self) {
        self.saved_at = self.shared.current.load(Ordering::Acquire);
        loop {
            self.round();
            match self.pokes.recv_timeout(TICK) {
                Ok(()) | Err(RecvTimeoutError::Timeout) if !self.shared.is_closed() => {}
                Ok(()) | Err(_) => break,
            }
        }
        // The writer outlives the janitor.
        let _ = self.shared.requests.blocking_send(Message::Stop);
    }

    fn round(&mut self) {
        self.look_at_room();
        self.delete_garbage();
        self.free_dead();
        self.move_sparse();
        self.collect_orphans();
        let current = self.shared.current.load(Ordering::Acquire);
        if current.saturating_sub(self.saved_at) >= self.shared.config.checkpoint_segments {
            self.checkpoint();
        }
    }

    fn look_at_room(&self) {
        let shared = &self.shared;
        let used = shared.used_bytes(&shared.index());
        shared.metrics.store_bytes.set(used);
        let is_short = match shared.room.look(&*shared.disk) {
            Ok(free) => free < shared.reserve_bytes(),
            Err(error) => {
                tracing::error!(%error, "cannot ask how much room is left");
                return;
            }
        };
        let was_short = shared.is_short.swap(is_short, Ordering::Relaxed);
        if is_short != was_short {
            tracing::warn!(is_short, "room on the file system: mail from outside may have to wait");
        }
        if is_short || was_short || shared.is_broken.load(Ordering::Acquire) {
            // Full of requests, the writer finds out by itself.
            let _ = shared.requests.try_send(Message::Tick);
        }
    }

    /// Saves the index. The log has to be read from the current segment's beginning on.
    pub(crate) fn checkpoint(&mut self) {
        // While an action is recorded its job is held in memory only. Many go on for minutes, and
        // leave a turn now and then to who waits for it.
        let Ok(_turn) = block_on(self.shared.acting.acquire()) else { return };
        let segment = self.shared.current.load(Ordering::Acquire);
        match checkpoint::save(&self.shared, Position { segment, offset: DATA_START }) {
            Ok(()) => self.saved_at = segment,
            Err(error) => tracing::warn!(%error, "cannot save the index"),
        }
    }

    /// The right to delete what was committed; `None` while it is copied.
    fn unlinking(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.unlinking.try_acquire().ok()
    }

    fn delete_garbage(&self) {
        let Some(_turn) = self.unlinking() else { return };
        let garbage = self.shared.index().take_garbage();
        for message in garbage {
            self.delete_file(&front_path(message));
            self.delete_file(&body_path(message));
        }
    }

    fn delete_file(&self, path: &str) {
        let disk = &self.shared.disk;
        let result = disk.open(path).and_then(|file| file.len()).and_then(|len| {
            disk.remove(path)?;
            self.shared.freed(len);
            Ok(())
        });
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path, %error, "cannot delete an unused file of content");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Unlinks the oldest segments while nothing in them is needed; one after the other, so that a
    /// crash cannot bring back the beginning of a job without its end.
    fn free_dead(&self) {
        let Some(_turn) = self.unlinking() else { return };
        while let Some(sequence) = self.oldest(|live| live == 0) {
            let path = segment::path(sequence);
            let removed = match self.shared.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => self.shared.disk.sync_dir(disk::LOG),
            };
            if let Err(error) = removed {
                tracing::warn!(path, %error, "cannot delete a segment");
                return;
            }
            self.shared.index().segments.remove(&sequence);
        }
    }

    /// The oldest segment, if it is not in use and has so much live.
    fn oldest(&self, wanted: impl Fn(u64) -> bool) -> Option<u32> {
        let current = self.shared.current.load(Ordering::Acquire);
        let index = self.shared.index();
        let (&sequence, segment) = index.segments.first_key_value()?;
        (sequence < current && wanted(segment.live)).then_some(sequence)
    }

    /// Moves what is live out of the oldest segments while the log is too sparse.
    fn move_sparse(&mut self) {
        while self.is_sparse() && !self.shared.is_closed() {
            let Some(sequence) = self.oldest(|live| live > 0) else { return };
            let Some(turn) = self.unlinking() else { return };
            if let Err(error) = self.move_out(sequence) {
                tracing::warn!(sequence, %error, "cannot move mail out of an old segment");
                return;
            }
            drop(turn);
            self.free_dead();
        }
    }

    fn is_sparse(&self) -> bool {
        let index = self.shared.index();
        let (log, live) = (index.log_bytes(), index.live_bytes());
        let slack = SLACK_SEGMENTS * u64::from(self.shared.config.segment_bytes);
        log > (2 * live).max(live + slack)
    }

    /// Moves what can be read. What cannot be is passed over, so that one bad block does not stop
    /// the rest; the error says that something of the segment is left.
    fn move_out(&self, sequence: u32) -> Result<(), MoveError> {
        let messages: Vec<_> = self.messages_in(sequence).into_iter().collect();
        let mut left = None;
        for some in messages.chunks(MOVED_TOGETHER) {
            let mut files = Vec::new();
            for (message, jobs) in some {
                match self.write_front(*message, jobs) {
                    Ok(moving) => files.extend(moving),
                    Err(MoveError::Io(error)) => return Err(error.into()),
                    Err(error) => left = self.pass_over(*message, error).err().or(left),
                }
            }
            self.move_together(files)?;
        }
        left.map_or(Ok(()), Err)
    }

    /// Takes a message out of the queue whose record is damaged. Fails when it has to stay.
    fn pass_over(&self, message: QueueId, error: MoveError) -> Result<(), MoveError> {
        let damaged_at = match &error {
            MoveError::Read(error) => error.damaged_at(),
            MoveError::Io(_) | MoveError::InUse => None,
        };
        let Some(at) = damaged_at else {
            tracing::warn!(id = %message, %error, "cannot move a message now");
            return Err(error);
        };
        match quarantine::take_out(&self.shared, message, at)? {
            Taken::Out => Ok(()),
            Taken::Later => Err(MoveError::InUse),
        }
    }

    fn move_together(&self, files: Vec<Moving>) -> Result<(), MoveError> {
        self.shared.disk.sync_dir(disk::CONTENT)?;
        let mut replies = Vec::new();
        for moving in files {
            replies.push(self.send(moving)?);
        }
        for (message, reply) in replies {
            match Outcome::received(reply.blocking_recv()) {
                Outcome::Durable => drop(self.shared.metrics.moved_messages.inc()),
                Outcome::Changed => self.unless_queued(message),
                Outcome::Full(error) | Outcome::Refused(error) | Outcome::Unknown(error) => {
                    return Err(io::Error::other(error).into());
                }
            }
        }
        Ok(())
    }

    /// The messages in a segment with their jobs.
    fn messages_in(&self, sequence: u32) -> BTreeMap<QueueId, Vec<(JobId, Places)>> {
        let mut messages: BTreeMap<QueueId, Vec<(JobId, Places)>> = BTreeMap::new();
        let mut from = None;
        loop {
            let page = self.shared.index().schedule.page(from, 1024);
            for job in page.jobs {
                if job.payload.message.segment.get() == sequence {
                    messages.entry(job.id.message).or_default().push((job.id, job.payload));
                }
            }
            from = page.next;
            if from.is_none() {
                return messages;
            }
        }
    }

    /// Copies the inline content of a message to a file. `None` when the message is no more.
    fn write_front(
        &self,
        id: QueueId,
        jobs: &[(JobId, Places)],
    ) -> Result<Option<Moving>, MoveError> {
        let shared = &self.shared;
        let Some((_, places)) = jobs.first() else { return Ok(None) };
        let Whole { message, inline, is_intact, mut front, rest } =
            content::read_whole(shared, places.message, id)?;
        if !inline.is_empty() {
            let mut file = BodyFile::at(front_path(id));
            for part in &inline {
                file.write(shared, part, Sync::Later)?;
            }
            file.write(shared, &[], Sync::File)?;
            front = file.part;
        }
        if !is_intact {
            quarantine::keep(shared, id, places.message)?;
            // What is damaged must not pass for whole.
            front.crc = !front.crc;
        }
        let mut draft = record::Draft::new();
        draft.moved(&message, front, rest);
        let mut stopped = Vec::new();
        for (job, places) in jobs {
            let state = self.state(&message, *job, places.state)?;
            if state.is_none() {
                stopped.push(*job);
            }
            draft.state(*job, &state.unwrap_or_else(|| quarantine::unknown_state(&message)));
        }
        Ok(Some(Moving { id, jobs: jobs.to_vec(), stopped, draft }))
    }

    /// The state of a job; `None` when its record is damaged, of which a copy is kept.
    fn state(
        &self,
        message: &StoredMessage,
        job: JobId,
        at: Option<Location>,
    ) -> Result<Option<StoredState>, MoveError> {
        let shared = &self.shared;
        let Some(at) = at else { return Ok(Some(StoredState::fresh(&message.envelope))) };
        match content::read_state(shared, at, job) {
            Err(ReadError::Damaged(_)) => {}
            read => return Ok(Some(read?)),
        }
        // Whoever has leased the job knows its state, and writes it down.
        if shared.index().schedule.get(job).is_some_and(|view| view.phase == Phase::Active) {
            return Err(MoveError::InUse);
        }
        quarantine::keep(shared, job.message, at)?;
        Ok(None)
    }

    fn send(&self, moving: Moving) -> Result<(QueueId, oneshot::Receiver<Outcome>), MoveError> {
        let record = moving.draft.finish().map_err(io::Error::other)?;
        let jobs = moving.jobs.iter().map(|(job, _)| *job).collect();
        let effect = Effect::Moved { message: moving.id, jobs, stopped: moving.stopped };
        let (reply, receiver) = oneshot::channel();
        let request = Box::new(Request { record, expects: moving.jobs, effect, reply });
        let sent = self.shared.requests.blocking_send(Message::Append(request));
        sent.map_err(|_| io::Error::other("the queue is closed"))?;
        Ok((moving.id, receiver))
    }

    /// A message that ended while it was moved leaves a file behind.
    fn unless_queued(&self, message: QueueId) {
        if !self.shared.index().schedule.has_message(message) {
            self.delete_file(&front_path(message));
        }
    }

    fn count_files(&self) -> io::Result<u64> {
        let files = self.shared.disk.list(disk::CONTENT)?;
        Ok(files.iter().map(|file| file.len).sum())
    }

    /// Deletes the files that nothing refers to and that no draft can still be writing.
    fn collect_orphans(&mut self) {
        let now = self.shared.now();
        if self.orphans_after.is_none_or(|after| now < after) {
            return;
        }
        let Ok(_turn) = self.shared.unlinking.try_acquire() else { return };
        self.orphans_after = Some(now + ORPHANS);
        let Ok(files) = self.shared.disk.list(disk::CONTENT) else { return };
        for file in files {
            let Some(message) = content::message_of(&file.name) else { continue };
            let is_old = now.since(file.modified) > self.shared.config.orphan_age();
            let is_draft = self.shared.drafts().contains(&message);
            if is_old && !is_draft && !self.shared.index().schedule.has_message(message) {
                tracing::info!(file = file.name, "deleting a file that no message refers to");
                self.delete_file(&format!("{}/{}", disk::CONTENT, file.name));
            }
        }
    }
}

/// A message whose content is in its new place.
struct Moving {
    id: QueueId,
    jobs: Vec<(JobId, Places)>,
    /// Those of which the state is not known any more.
    stopped: Vec<JobId>,
    draft: record::Draft,
}

#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("a damaged record belongs to a job that is being worked on")]
    InUse,
}
