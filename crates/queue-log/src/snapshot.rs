//! What has to be copied to have the queue a second time.
//!
//! Records are appended and content is written once, so the queue as it is at a place of the log is
//! the log up to there and the files of content, as long as nothing is deleted. What is written
//! later into files of content belongs to records behind that place: copied or not, it is nobody's.
//! The checkpoint is not copied: it may be of a later place, and the log says all that it says.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use crate::checkpoint::Position;
use crate::disk::{self, Disk, OsDisk};
use crate::log_queue::OpenError;
use crate::segment;
use crate::shared::Shared;

/// A store is full when a message of this size is refused.
const MESSAGE_BYTES: u64 = 64 << 10;

/// A file of the log, of which the beginning is copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogFile {
    /// Relative to the queue's directory.
    pub path: String,
    /// What lies behind is not to be copied.
    pub bytes: u64,
}

/// An open queue as it was at one moment.
pub struct Snapshot {
    shared: Arc<Shared>,
    log: Vec<LogFile>,
    was_full: bool,
    _unlinking: OwnedSemaphorePermit,
}

impl Snapshot {
    /// Directories beside the log whose files are copied whole, as far as they are there.
    pub const WHOLE: [&str; 2] = [disk::CONTENT, disk::QUARANTINE];

    pub(crate) fn take(
        shared: Arc<Shared>,
        unlinking: OwnedSemaphorePermit,
        end: Position,
    ) -> io::Result<Self> {
        let log = log_files(&*shared.disk, end)?;
        let was_full = shared.is_full(&shared.index(), MESSAGE_BYTES);
        Ok(Self { shared, log, was_full, _unlinking: unlinking })
    }

    /// The log up to the moment, in order.
    pub fn log(&self) -> &[LogFile] {
        &self.log
    }

    /// Whether mail from outside has come to be refused for want of room, some of which would be
    /// free if nothing was copied.
    pub fn is_in_the_way(&self) -> bool {
        !self.was_full && self.shared.is_full(&self.shared.index(), MESSAGE_BYTES)
    }
}

/// A queue that no process has open, and none can open until this is dropped.
pub struct AtRest {
    log: Vec<LogFile>,
    _lock: File,
}

impl AtRest {
    /// # Errors
    /// When a process has it open, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Directory { dir: dir.into(), source };
        let disk = OsDisk::new(dir).map_err(unusable)?;
        let locked = || OpenError::Locked { dir: dir.into() };
        let lock = disk.lock().map_err(unusable)?.ok_or_else(locked)?;
        let end = Position { segment: u32::MAX, offset: u32::MAX };
        let log = log_files(&disk, end).map_err(unusable)?;
        Ok(Self { log, _lock: lock })
    }

    /// The log, in order.
    pub fn log(&self) -> &[LogFile] {
        &self.log
    }
}

fn log_files(disk: &dyn Disk, end: Position) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for entry in disk.list(disk::LOG)? {
        let Some(sequence) = segment::sequence(&entry.name) else { continue };
        let bytes = match sequence.cmp(&end.segment) {
            std::cmp::Ordering::Less => entry.len,
            std::cmp::Ordering::Equal => entry.len.min(end.offset.into()),
            std::cmp::Ordering::Greater => continue,
        };
        files.push((sequence, LogFile { path: segment::path(sequence), bytes }));
    }
    files.sort_by_key(|(sequence, _)| *sequence);
    Ok(files.into_iter().map(|(_, file)| file).collect())
}
