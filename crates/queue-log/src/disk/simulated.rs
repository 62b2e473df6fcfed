//! A disk in memory that fails when told, and of which a power cut leaves what was synced and a
//! random part of what was not.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use mail_types::Timestamp;

use super::{DirEntry, Disk, DiskFile, LOG};

const SECTOR: usize = 512;

#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the directories were synced.
    renames: Vec<NameChange>,
    random: u64,
    operations: u64,
    /// Every change at or after this operation fails.
    power_off_at: u64,
    faults: Vec<Fault>,
    syncs: Syncs,
    written_bytes: u64,
    /// Of every file.
    modified: Timestamp,
    /// A place that cannot be read.
    bad_block: Option<(usize, usize)>,
    capacity: u64,
    /// Nobody is told how much is free.
    hides_free: bool,
}

/// Whether syncs do what they promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Syncs {
    Honest,
    /// They say so and do nothing: what our checkers must find.
    Skipped,
}

/// What may fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Create,
    Allocate,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// How many operations go well before.
    pub(crate) after: u64,
    /// Only operations of this kind on the log are counted; none: all.
    pub(crate) on: Option<Operation>,
    pub(crate) kind: io::ErrorKind,
    pub(crate) leaves: Leaves,
}

/// What a failed sync leaves of what was to be synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaves {
    Nothing,
    All,
    Some,
}

#[derive(Clone, Default)]
struct Content {
    current: Vec<u8>,
    synced: Vec<u8>,
    /// Written since the last sync: (offset, octets), a sector at most each.
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

impl State {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn step(&mut self, operation: Operation, path: &str) -> Result<(), (io::Error, Leaves)> {
        self.operations += 1;
        if self.operations >= self.power_off_at {
            return Err((io::Error::other("the power is off"), Leaves::Some));
        }
        for at in 0..self.faults.len() {
            let fault = &mut self.faults[at];
            if fault.on.is_some_and(|on| on != operation || !path.starts_with(LOG)) {
                continue;
            }
            if fault.after == 0 {
                let fault = self.faults.remove(at);
                return Err((fault.kind.into(), fault.leaves));
            }
            fault.after -= 1;
            break;
        }
        Ok(())
    }

    fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
        match change {
            NameChange::Link(path, file) => drop(names.insert(path.clone(), *file)),
            NameChange::Unlink(path) => drop(names.remove(path)),
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }

    fn change(&mut self, change: NameChange) {
        Self::apply(&mut self.names, &change);
        self.renames.push(change);
    }

    fn free(&self) -> u64 {
        let used = self.names.values().map(|&file| self.files[file].current.len() as u64);
        self.capacity.saturating_sub(used.sum())
    }

    fn file(&self, path: &str) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes part of what was written durable, as a disk may at any time.
    fn leak(&mut self, file: usize, leaves: Leaves) {
        for (offset, bytes) in std::mem::take(&mut self.files[file].unsynced) {
            let survives = match leaves {
                Leaves::Nothing => false,
                Leaves::All => true,
                Leaves::Some => self.random().is_multiple_of(2),
            };
            if survives {
                put(&mut self.files[file].synced, offset, &bytes);
            }
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl SimDisk {
    pub(crate) fn new(seed: u64, syncs: Syncs) -> Self {
        Self(Arc::new(Mutex::new(State {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renames: Vec::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            operations: 0,
            power_off_at: u64::MAX,
            faults: Vec::new(),
            syncs,
            written_bytes: 0,
            modified: crate::tests::NOW,
            bad_block: None,
            capacity: 1 << 40,
            hides_free: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.state().written_bytes
    }

    pub(crate) fn power_off_at(&self, operation: u64) {
        self.state().power_off_at = operation;
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Another disk with the same on it.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// What is there after a power cut now. This disk is off from now on.
    pub(crate) fn cut(&self) -> Self {
        let mut state = self.state();
        state.power_off_at = 0;
        for file in 0..state.files.len() {
            state.leak(file, Leaves::Some);
        }
        let mut names = state.durable_names.clone();
        let renames = state.renames.clone();
        let kept = usize::try_from(state.random()).unwrap_or(0) % (renames.len() + 1);
        renames[..kept].iter().for_each(|change| State::apply(&mut names, change));
        let files = state.files.iter().map(|file| Content {
            current: file.synced.clone(),
            synced: file.synced.clone(),
            unsynced: Vec::new(),
        });
        let files = files.collect();
        let random = state.random();
        let syncs = state.syncs;
        drop(state);
        let disk = Self::new(random, syncs);
        let mut state = disk.state();
        (state.files, state.names, state.durable_names) = (files, names.clone(), names);
        drop(state);
        disk
    }

    /// Flips a bit for good.
    pub(crate) fn flip(&self, path: &str, offset: u64) {
        let mut state = self.state();
        let file = state.file(path).unwrap();
        let at = usize::try_from(offset).unwrap();
        state.files[file].current[at] ^= 1;
        if let Some(octet) = state.files[file].synced.get_mut(at) {
            *octet ^= 1;
        }
    }

    /// So much fits on it, what is there included.
    pub(crate) fn hold_at_most(&self, capacity: u64) {
        self.state().capacity = capacity;
    }

    /// Asking what is free fails from now on.
    pub(crate) fn hide_free(&self) {
        self.state().hides_free = true;
    }

    /// What is free, whoever may ask.
    pub(crate) fn free(&self) -> u64 {
        self.state().free()
    }

    /// Reading there fails until it is said of another place, or of none.
    pub(crate) fn bad_block(&self, place: Option<(&str, u64)>) {
        let mut state = self.state();
        let place = place.map(|(path, at)| (state.file(path).unwrap(), at.try_into().unwrap()));
        state.bad_block = place;
    }

    pub(crate) fn truncate(&self, path: &str) {
        let mut state = self.state();
        let file = state.file(path).unwrap();
        state.files[file] = Content::default();
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step(Operation::Create, path).map_err(|(error, _)| error)?;
        state.files.push(Content::default());
        let file = state.files.len() - 1;
        state.change(NameChange::Link(path.to_owned(), file));
        Ok(Arc::new(SimFile { disk: self.clone(), file, path: path.to_owned() }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.state().file(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), file, path: path.to_owned() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::Rename, from).map_err(|(error, _)| error)?;
        state.file(from)?;
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::Remove, path).map_err(|(error, _)| error)?;
        state.file(path)?;
        state.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<DirEntry>> {
        let state = self.state();
        let entry = |(path, &file): (&String, &usize)| {
            let name = path.strip_prefix(dir)?.strip_prefix('/')?.to_owned();
            let len = state.files[file].current.len() as u64;
            Some(DirEntry { name, len, modified: state.modified })
        };
        Ok(state.names.iter().filter_map(entry).collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::SyncDir, dir).map_err(|(error, _)| error)?;
        if state.syncs == Syncs::Honest {
            let renames = std::mem::take(&mut state.renames);
            let mut names = std::mem::take(&mut state.durable_names);
            renames.iter().for_each(|change| State::apply(&mut names, change));
            state.durable_names = names;
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        if state.hides_free {
            return Err(io::Error::other("it does not say"));
        }
        Ok(state.free())
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
    path: String,
}

impl SimFile {
    fn put(state: &mut State, file: usize, offset: usize, bytes: &[u8]) {
        let content = &mut state.files[file];
        put(&mut content.current, offset, bytes);
        let mut at = offset;
        while at < offset + bytes.len() {
            let end = (at / SECTOR + 1) * SECTOR;
            let end = end.min(offset + bytes.len());
            content.unsynced.push((at, bytes[at - offset..end - offset].to_vec()));
            at = end;
        }
    }
}

impl DiskFile for SimFile {
    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step(Operation::Allocate, &self.path).map_err(|(error, _)| error)?;
        let len = usize::try_from(len).unwrap();
        let more = len.saturating_sub(state.files[self.file].current.len());
        if more as u64 > state.free() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = &mut state.files[self.file];
        file.current.resize(len, 0);
        file.synced.resize(len, 0);
        Ok(())
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes = parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>();
        let offset = usize::try_from(offset).unwrap();
        let mut state = self.disk.state();
        let step = state.step(Operation::Write, &self.path);
        // A failed write is a short one.
        let written = if step.is_ok() { bytes.len() } else { bytes.len() / 2 };
        state.written_bytes += written as u64;
        Self::put(&mut state, self.file, offset, &bytes[..written]);
        step.map_err(|(error, _)| error)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Err((error, leaves)) = state.step(Operation::Sync, &self.path) {
            // What was not written is thought to be clean from now on.
            state.leak(self.file, leaves);
            return Err(error);
        }
        if state.syncs == Syncs::Honest {
            state.leak(self.file, Leaves::All);
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        let start = usize::try_from(offset).unwrap();
        if let Some((file, at)) = state.bad_block
            && file == self.file
            && (start..start + buf.len()).contains(&at)
        {
            return Err(io::Error::other("a bad block"));
        }
        let bytes = state.files[self.file].current.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].current.len() as u64)
    }
}
