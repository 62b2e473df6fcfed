//! The part of a file system that the log stands on: what may fail, and what a crash may undo.
//!
//! A file's bytes survive a crash once `sync` has returned; a name, once `sync_dir` has. Paths are
//! relative to the directory of the store.

mod os;
#[cfg(test)]
mod simulated;

use std::io::{self, IoSlice};
use std::sync::Arc;

use mail_types::Timestamp;

pub(crate) use os::OsDisk;
#[cfg(test)]
pub(crate) use simulated::{Fault, Leaves, Operation, SimDisk, Syncs};

pub(crate) const LOG: &str = "log";
pub(crate) const CONTENT: &str = "content";
pub(crate) const QUARANTINE: &str = "quarantine";
/// The directory of the store itself.
pub(crate) const ROOT: &str = ".";

pub(crate) trait Disk: Send + Sync + 'static {
    /// An empty file, in place of one that is there.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, path: &str) -> io::Result<()>;

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>>;

    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// What the file system has left for us.
    fn free_bytes(&self) -> io::Result<u64>;
}

pub(crate) trait DiskFile: Send + Sync {
    /// Makes the file `len` octets long, zeros, with their room on the disk.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Writes all parts one after another. After an error any of it may be written.
    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;

    fn sync(&self) -> io::Result<()>;

    /// Fills `buf`, or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DirEntry {
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) modified: Timestamp,
}

/// The whole file.
pub(crate) fn read_all(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// A file that is there as a whole, or not at all.
pub(crate) fn write_whole(disk: &dyn Disk, dir: &str, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    let file = disk.create(&temporary)?;
    file.write_at(0, &mut [IoSlice::new(bytes)])?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(dir)
}
