//! Maildirs on a disk: the steps that make a message durable, and what their failures mean.
//!
//! Everything here blocks; the worker calls it on threads that may.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domains::Storage;
use mail_types::Timestamp;

mod held;

pub use held::{Held, count};

/// A file in `tmp` that is older was left by a crash (Maildir specification).
const LEFTOVER_AGE: Duration = Duration::from_secs(36 * 3600);

/// Maildirs that are remembered to be prepared. Another is prepared again: a few syncs.
const PREPARED_MAX: usize = 50_000;

/// Folders that a sub-address does not lead to: what their owner has put there (RFC 6154 §2).
const OWNERS_OWN: [&str; 4] = ["archive", "drafts", "sent", "trash"];

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} in {}", .place.display())]
pub(crate) struct DiskError {
    step: &'static str,
    place: PathBuf,
    source: io::Error,
}

impl DiskError {
    pub(crate) fn at(step: &'static str, place: &Path) -> impl FnOnce(io::Error) -> Self {
        let place = place.to_owned();
        move |source| Self { step, place, source }
    }

    /// A thread that did not come to its end.
    pub(crate) fn unfinished(root: &Path, error: tokio::task::JoinError) -> Self {
        Self::at("finish", root)(io::Error::other(error))
    }

    /// Whether room is all that lacks.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }

    fn is_absence(&self) -> bool {
        self.source.kind() == ErrorKind::NotFound
    }
}

/// Where mailboxes are, for those who serve them to their owners.
#[derive(Clone, Debug)]
pub struct Maildirs {
    root: PathBuf,
}

impl Maildirs {
    /// Those below a directory.
    pub fn below(root: PathBuf) -> Self {
        Self { root }
    }

    /// The Maildir of a mailbox. It may not be there yet.
    pub fn of(&self, storage: &Storage) -> PathBuf {
        self.root.join(storage.id.directory())
    }
}

/// All Maildirs.
#[derive(Debug)]
pub(crate) struct Store {
    maildirs: Maildirs,
    /// Those known to exist and to survive a power cut, or [`PREPARED_MAX`] of them.
    prepared: Mutex<HashSet<PathBuf>>,
    /// Tells this process apart from those before it: in a container all have the same id.
    incarnation: u64,
    /// Tells apart the attempts of this process.
    writes: AtomicU64,
}

/// Where a recipient's copy goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The Maildir of the mailbox, which is its inbox.
    inbox: PathBuf,
    /// The name of a folder, in either case: where the copy goes if the owner has made one. Senders
    /// choose it, so it is no part of a path and no folder is made of it: it is only compared with
    /// the names that are there.
    folder: Option<String>,
    /// From [`crate::path::unique_name`].
    unique: String,
    /// Octets of the file.
    size: u64,
}

/// Where a recipient's copy may be already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Search {
    /// Nobody can have seen it yet: a look at its place in `new` is enough.
    New,
    /// It may have been read: all names in `cur` are compared.
    Everywhere,
}

/// What [`Store::begin`] found.
pub(crate) enum Begun {
    /// It is there already, in the inbox or in this folder.
    Stored(Option<String>),
    Writing(Draft),
}

/// A file in `tmp`. Dropped before [`Draft::publish`], it is removed.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    path: PathBuf,
    /// Where it is published: the inbox, or a folder of it.
    maildir: PathBuf,
    target: Target,
    written: u64,
    is_published: bool,
}

impl Target {
    /// `size` is that of the whole file.
    pub(crate) fn new(inbox: PathBuf, folder: Option<String>, unique: String, size: u64) -> Self {
        Self { inbox, folder, unique, size }
    }

    /// `,S=` tells readers the size without a look at the file.
    pub(crate) fn file_name(&self) -> String {
        format!("{},S={}", self.unique, self.size)
    }

    /// The folders of that name that their owner has made (Maildir++: a directory `.Name`), the one
    /// that is spelt alike first. A name of the disk is compared with what was asked for, which is
    /// never part of a path.
    fn folders_there(&self) -> Result<Vec<PathBuf>, DiskError> {
        let Some(wanted) = self.folder.as_deref().filter(|folder| is_for_strangers(folder)) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.inbox).map_err(DiskError::at("look", &self.inbox))? {
            let entry = entry.map_err(DiskError::at("look", &self.inbox))?;
            let name = entry.file_name();
            let folder = name.to_str().and_then(|name| name.strip_prefix('.'));
            if folder.is_some_and(|folder| folder.eq_ignore_ascii_case(wanted))
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
                && ["cur", "new"].iter().all(|part| entry.path().join(part).is_dir())
            {
                found.push((folder != Some(wanted), entry.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    fn is_in_new(&self, maildir: &Path) -> Result<bool, DiskError> {
        let new = maildir.join("new");
        let found = new.join(self.file_name()).try_exists();
        found.map_err(DiskError::at("look", &new))
    }

    /// A reader moves a file to `cur` and adds flags to its name.
    fn is_in_cur(&self, maildir: &Path) -> Result<bool, DiskError> {
        let cur = maildir.join("cur");
        for entry in fs::read_dir(&cur).map_err(DiskError::at("look", &cur))? {
            let name = entry.map_err(DiskError::at("look", &cur))?.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(&self.unique));
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([',', ':'])) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Store {
    /// Makes the root if there is none.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let probe = root.join(".writable");
        File::create(&probe)?;
        fs::remove_file(&probe)?;
        let (prepared, writes) = (Mutex::default(), AtomicU64::new(0));
        let maildirs = Maildirs::below(root.to_owned());
        Ok(Self { maildirs, prepared, incarnation: rand::random(), writes })
    }

    pub(crate) fn maildirs(&self) -> &Maildirs {
        &self.maildirs
    }

    pub(crate) fn root(&self) -> &Path {
        &self.maildirs.root
    }

    /// The Maildir of a mailbox.
    pub(crate) fn inbox(&self, storage: &Storage) -> PathBuf {
        self.maildirs.of(storage)
    }

    /// Opens a file for a copy and writes its beginning, unless the copy is stored already.
    pub(crate) fn begin(
        &self,
        target: Target,
        search: Search,
        beginning: &[Bytes],
        now: Timestamp,
    ) -> Result<Begun, DiskError> {
        let begun = self.begin_prepared(&target, search, beginning, now);
        if !matches!(&begun, Err(error) if error.is_absence()) {
            return begun;
        }
        // Somebody removed the Maildir or the folder meanwhile.
        self.prepared().retain(|prepared| !prepared.starts_with(&target.inbox));
        self.begin_prepared(&target, search, beginning, now)
    }

    fn begin_prepared(
        &self,
        target: &Target,
        search: Search,
        beginning: &[Bytes],
        now: Timestamp,
    ) -> Result<Begun, DiskError> {
        self.prepare(&target.inbox, now)?;
        let folders = target.folders_there()?;
        // It may lie in the inbox from before the folder was made.
        for maildir in folders.iter().chain([&target.inbox]) {
            // What another process renamed and did not sync would be lost with the power.
            if target.is_in_new(maildir)? {
                sync_dir(&maildir.join("new"))?;
                return Ok(Begun::Stored(folder_name(maildir)));
            }
            if search == Search::Everywhere && target.is_in_cur(maildir)? {
                sync_dir(&maildir.join("cur"))?;
                return Ok(Begun::Stored(folder_name(maildir)));
            }
        }
        let maildir = folders.first().unwrap_or(&target.inbox);
        if !folders.is_empty() {
            self.prepare(maildir, now)?;
            // Its owner may have made it a moment ago, and not synced it.
            sync_dir(maildir)?;
            sync_dir(&target.inbox)?;
        }
        let mut draft = self.create(target, maildir)?;
        for bytes in beginning {
            draft.write(bytes)?;
        }
        Ok(Begun::Writing(draft))
    }

    fn create(&self, target: &Target, maildir: &Path) -> Result<Draft, DiskError> {
        let tmp = maildir.join("tmp");
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{:016x}.{number}", target.unique, self.incarnation);
        let path = tmp.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(DiskError::at("create a file", &tmp))?;
        let (maildir, target) = (maildir.to_owned(), target.clone());
        Ok(Draft { file, path, maildir, target, written: 0, is_published: false })
    }

    /// Makes a Maildir that survives a power cut; once in a process, for one that was killed may
    /// have made it without.
    fn prepare(&self, maildir: &Path, now: Timestamp) -> Result<(), DiskError> {
        if self.prepared().contains(maildir) {
            return Ok(());
        }
        for dir in ["tmp", "new", "cur"].map(|name| maildir.join(name)) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(DiskError::at("make a Maildir", maildir))?;
        }
        for dir in maildir.ancestors() {
            sync_dir(dir)?;
            if dir == self.root() {
                break;
            }
        }
        remove_leftovers(&maildir.join("tmp"), now);
        self.note_prepared(maildir);
        Ok(())
    }

    fn note_prepared(&self, maildir: &Path) {
        let mut prepared = self.prepared();
        if prepared.len() >= PREPARED_MAX {
            // Any: which ones are needed again is not known.
            let any = prepared.iter().next().cloned();
            any.map(|any| prepared.remove(&any));
        }
        prepared.insert(maildir.to_owned());
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Draft {
    /// The folder that it goes to; `None` for the inbox.
    pub(crate) fn folder(&self) -> Option<String> {
        folder_name(&self.maildir)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all(bytes).map_err(DiskError::at("write", &self.path))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Whether as much was written as the target says.
    pub(crate) fn is_whole(&self) -> bool {
        self.written == self.target.size
    }

    /// Makes the copy durable and visible, in this order. A failed sync is not tried again on the
    /// same file: the kernel may have dropped the pages.
    pub(crate) fn publish(mut self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(DiskError::at("sync", &self.path))?;
        let new = self.maildir.join("new");
        fs::rename(&self.path, new.join(self.target.file_name()))
            .map_err(DiskError::at("rename", &new))?;
        self.is_published = true;
        sync_dir(&new)?;
        note_size(&self.target.inbox, self.target.size);
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            // What remains is removed as a leftover.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether mail from outside may go to a folder by its name.
fn is_for_strangers(folder: &str) -> bool {
    !folder.starts_with('.') && !OWNERS_OWN.contains(&&*folder.to_ascii_lowercase())
}

/// The name of a folder by its directory; `None` for an inbox, which is in no `.Name`.
fn folder_name(maildir: &Path) -> Option<String> {
    Some(maildir.file_name()?.to_str()?.strip_prefix('.')?.to_owned())
}

/// Adds a message to the count that a reader keeps of the mailbox in `maildirsize` (Maildir++), if
/// one does. We count files ourselves; who finds its own count wrong counts again, so a failure
/// does no harm.
fn note_size(inbox: &Path, size: u64) {
    let file = OpenOptions::new().append(true).open(inbox.join("maildirsize"));
    let _ = file.and_then(|mut file| file.write_all(format!("{size} 1\n").as_bytes()));
}

fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(DiskError::at("sync", dir))
}

/// Frees what crashes left in `tmp`. That it fails is no reason not to deliver.
fn remove_leftovers(tmp: &Path, now: Timestamp) {
    let age = |modified: std::time::SystemTime| {
        let since_epoch = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        now.since(Timestamp::from_unix_ms(ms))
    };
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|modified| age(modified) > LEFTOVER_AGE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
