//! Mail whose records were damaged while the queue was open.
//!
//! The octets of a damaged record are copied, as they are, before anything else is done about it.
//! A message whose record cannot be read is then taken out of the queue by the end of its jobs in
//! the log, so that its segment can be freed; what files it has go where its record went.
//! Nothing is taken out that a worker has in hand: it may know what the disk does not.

use std::io;

use mail_types::QueueId;
use queue::schedule::{Back, Placement};
use queue::stored::{StoredMessage, StoredState};
use queue::{Disposition, JobId, Phase, Settlement};
use tokio::sync::oneshot;

use crate::content::{body_path, front_path};
use crate::disk;
use crate::index::{Effect, Location, Next, Places};
use crate::record;
use crate::segment;
use crate::shared::{Message, Outcome, Request, Shared};

/// Copies the octets of a damaged record as they are. Says so, and counts, once. Blocks.
pub(crate) fn keep(shared: &Shared, message: QueueId, at: Location) -> io::Result<()> {
    let disk = &*shared.disk;
    let copy = copy_path(message, at);
    if disk.open(&copy).is_ok() {
        return disk.sync_dir(disk::QUARANTINE);
    }
    let path = segment::path(at.segment.get());
    let len = usize::try_from(at.bytes()).map_err(io::Error::other)?;
    let mut octets = vec![0; len];
    disk.open(&path)?.read_at(at.offset.into(), &mut octets)?;
    disk::write_whole(disk, disk::QUARANTINE, &copy, &octets)?;
    shared.metrics.quarantined.inc();
    tracing::error!(
        id = %message,
        path,
        offset = at.offset,
        copy,
        "a damaged record: check the disk"
    );
    Ok(())
}

fn copy_path(message: QueueId, at: Location) -> String {
    format!("{}/{message}-{:010}-{}.damaged", disk::QUARANTINE, at.segment, at.offset)
}

/// The state of a job of which nothing is known but that it is in the queue.
pub(crate) fn unknown_state(message: &StoredMessage) -> StoredState {
    let reason = "its record of attempts was damaged: some recipients may have it already";
    let settlement = Settlement {
        attempt: None,
        progress: Vec::new(),
        disposition: Disposition::Quarantine { reason: reason.into() },
        follow_ups: Vec::new(),
        delay_reported: false,
    };
    let fresh = StoredState::fresh(&message.envelope);
    fresh.settled(&settlement).unwrap_or(fresh)
}

/// What became of a damaged message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    Out,
    /// Somebody works on it.
    Later,
}

/// Takes a message out of the queue whose record at `at` is damaged. Blocks.
pub(crate) fn take_out(shared: &Shared, message: QueueId, at: Location) -> io::Result<Taken> {
    // An operator who acts on the job must not have it started again by us.
    let Ok(_turn) = shared.acting.try_acquire() else { return Ok(Taken::Later) };
    keep(shared, message, at)?;
    let Some(stopped) = stop(shared, message, at) else { return Ok(Taken::Later) };
    if let Err(error) = keep_files(shared, message) {
        start(shared, &stopped);
        return Err(error);
    }
    let jobs = stopped.len();
    let mut replies = Vec::with_capacity(jobs);
    for job in stopped {
        replies.push(end(shared, job)?);
    }
    for reply in replies {
        match Outcome::received(reply.blocking_recv()) {
            Outcome::Durable => {}
            Outcome::Changed => return Ok(Taken::Later),
            Outcome::Full(error) | Outcome::Refused(error) | Outcome::Unknown(error) => {
                return Err(io::Error::other(error));
            }
        }
    }
    tracing::error!(
        id = %message,
        jobs,
        copy = copy_path(message, at),
        "a message is damaged and has left the queue: tell its sender, as far as the copy of its \
         record can be read"
    );
    Ok(Taken::Out)
}

/// A job that is not leased while its end is recorded.
struct Stopped {
    job: JobId,
    places: Places,
    before: Placement,
}

/// Stops all jobs of a message; `None` when it is in hand or has moved.
fn stop(shared: &Shared, message: QueueId, at: Location) -> Option<Vec<Stopped>> {
    let now = shared.now();
    let mut index = shared.index();
    index.schedule.advance(now);
    index.sweep();
    let mut stopped = Vec::new();
    for view in index.schedule.of_message(message) {
        if view.phase == Phase::Active || view.payload.message != at {
            return None;
        }
        let before = index.schedule.placement(view.id)?;
        stopped.push(Stopped { job: view.id, places: view.payload, before });
    }
    for Stopped { job, places, .. } in &stopped {
        index.schedule.replace(*job, Placement::Held, *places, now);
    }
    Some(stopped)
}

fn start(shared: &Shared, stopped: &[Stopped]) {
    let now = shared.now();
    let mut index = shared.index();
    for Stopped { job, places, before } in stopped {
        index.schedule.replace(*job, *before, *places, now);
    }
}

/// Puts the files of content beside the record that named them.
fn keep_files(shared: &Shared, message: QueueId) -> io::Result<()> {
    let disk = &*shared.disk;
    for path in [front_path(message), body_path(message)] {
        let len = match disk.open(&path).and_then(|file| file.len()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            len => len?,
        };
        disk.rename(&path, &path.replacen(disk::CONTENT, disk::QUARANTINE, 1))?;
        shared.freed(len);
    }
    disk.sync_dir(disk::QUARANTINE)?;
    disk.sync_dir(disk::CONTENT)
}

/// Asks for the end of a job. Refused, it goes on where it was.
fn end(shared: &Shared, stopped: Stopped) -> io::Result<oneshot::Receiver<Outcome>> {
    let Stopped { job, places, before } = stopped;
    let mut draft = record::Draft::new();
    draft.done(job);
    let record = draft.finish().map_err(io::Error::other)?;
    let (next, back, before) = (Next::Gone, Back::Gone, Some(before));
    let effect = Effect::Acted { job, places, next, back, before };
    let (reply, receiver) = oneshot::channel();
    let request = Box::new(Request { record, expects: vec![(job, places)], effect, reply });
    let sent = shared.requests.blocking_send(Message::Append(request));
    sent.map_err(|_| io::Error::other("the queue is closed"))?;
    Ok(receiver)
}
