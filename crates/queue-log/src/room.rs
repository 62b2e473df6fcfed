//! What the file system has left, known between two looks at it.
//!
//! Asking is a system call, and admission is asked for every message: so it is asked once a second,
//! and what we take meanwhile is subtracted. What we free shows at the next look. The sum errs on
//! the safe side: what was being taken during a look may be subtracted twice until the next.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::Disk;

#[derive(Default)]
pub(crate) struct Room {
    /// Octets whose taking has begun, and those whose taking has ended, since the start.
    begun: AtomicU64,
    ended: AtomicU64,
    /// Octets that were let in and whose taking may not have begun.
    promised: AtomicU64,
    sample: Mutex<Option<Sample>>,
}

#[derive(Clone, Copy)]
struct Sample {
    free: u64,
    /// Had ended before the look, so the look has seen it.
    ended: u64,
}

impl Room {
    /// Does what takes up to `bytes` of the file system.
    pub(crate) fn taking<T>(
        &self,
        bytes: u64,
        take: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.begun.fetch_add(bytes, Ordering::AcqRel);
        let result = take();
        self.ended.fetch_add(bytes, Ordering::AcqRel);
        result
    }

    /// Keeps room for octets until they are taken.
    pub(crate) fn promise(self: &Arc<Self>, bytes: u64) -> Promise {
        self.promised.fetch_add(bytes, Ordering::AcqRel);
        Promise { room: Arc::clone(self), bytes }
    }

    /// Looks; gives what is free. After an error what was known goes on to count.
    pub(crate) fn look(&self, disk: &dyn Disk) -> io::Result<u64> {
        let ended = self.ended.load(Ordering::Acquire);
        let free = disk.free_bytes()?;
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        *sample = Some(Sample { free, ended });
        Ok(free)
    }

    /// Octets that are left at least; without a look, as many as one likes.
    pub(crate) fn left(&self) -> u64 {
        let sample = *self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Sample { free, ended }) = sample else { return u64::MAX };
        let taken = self.begun.load(Ordering::Acquire).saturating_sub(ended);
        free.saturating_sub(taken).saturating_sub(self.promised.load(Ordering::Acquire))
    }
}

/// Room that nobody else is let in for. Dropped when the octets are taken, or will not be.
pub(crate) struct Promise {
    room: Arc<Room>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.room.promised.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{SimDisk, Syncs};

    #[test]
    fn what_is_taken_since_the_look_is_subtracted_once() {
        let disk = SimDisk::new(1, Syncs::Honest);
        let room = Arc::new(Room::default());
        assert_eq!(room.left(), u64::MAX);
        room.taking(10, || Ok(())).unwrap();
        let free = room.look(&disk).unwrap();
        assert_eq!(room.left(), free, "the look has seen what was taken before");
        room.taking(10, || {
            assert_eq!(room.left(), free - 10, "it counts from its beginning");
            Ok(())
        })
        .unwrap();
        assert_eq!(room.left(), free - 10);
        room.taking(10, || {
            room.look(&disk).unwrap();
            assert_eq!(room.left(), free - 10, "the look may have missed it");
            Ok(())
        })
        .unwrap();
        room.look(&disk).unwrap();
        assert_eq!(room.left(), free);
        let promise = room.promise(10);
        assert_eq!(room.left(), free - 10);
        drop(promise);
        assert_eq!(room.left(), free);
        disk.hide_free();
        room.taking(10, || Ok(())).unwrap();
        assert!(room.look(&disk).is_err());
        assert_eq!(room.left(), free - 10);
    }
}
