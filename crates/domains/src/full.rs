//! Which mailboxes are full or nearly so, as far as is known.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mail_types::Mailbox;

use crate::storage::StorageId;

/// Mailboxes that are remembered as full at most. Others are taken for such that have room.
const FULL_MAX: usize = 500_000;
/// The same of those that have little room: fewer, for with many a count means nothing.
const LITTLE_MAX: usize = 50_000;
/// Octets. A mailbox with as much room takes any message that is not very large: it is nothing to
/// tell of.
const LITTLE_BYTES: u64 = 64 << 20;

/// The mailboxes with little room or none: told by whoever stores mail, asked by whoever accepts
/// it.
///
/// What is not in it has room: that nothing is known of a mailbox never refuses its mail.
#[derive(Debug, Default)]
pub struct FullMailboxes {
    known: RwLock<Known>,
    changes: AtomicU64,
}

/// A mailbox that has little room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LittleRoom {
    pub address: Mailbox,
    /// Octets; 0 when it is full.
    pub room_bytes: u64,
}

#[derive(Debug, Default)]
struct Known {
    mailboxes: HashMap<StorageId, LittleRoom>,
    /// How many of them are full.
    full: usize,
}

impl FullMailboxes {
    /// Whether it is full.
    pub fn contains(&self, id: &StorageId) -> bool {
        self.room_bytes(id) == Some(0)
    }

    /// Octets that it has room for; `None` when there is enough, as far as is known.
    pub fn room_bytes(&self, id: &StorageId) -> Option<u64> {
        self.read().mailboxes.get(id).map(|known| known.room_bytes)
    }

    /// Whether all have room enough.
    pub fn is_empty(&self) -> bool {
        self.read().mailboxes.is_empty()
    }

    /// How many are full.
    pub fn count_full(&self) -> usize {
        self.read().full
    }

    /// Notes how many octets a mailbox has room for.
    pub fn note(&self, id: StorageId, address: &Mailbox, room_bytes: u64) {
        let room = (room_bytes < LITTLE_BYTES).then_some(room_bytes);
        // Most mailboxes have room enough, as before: they only look.
        if self.room_bytes(&id) == room {
            return;
        }
        let mut known = self.write();
        let is_change = known.take(&id).is_some();
        let is_kept = room.is_some_and(|room_bytes| {
            known.put(id, LittleRoom { address: address.clone(), room_bytes })
        });
        drop(known);
        self.count(is_change || is_kept);
    }

    /// Forgets a mailbox: it has room enough, or is gone.
    pub fn remove(&self, id: &StorageId) {
        let is_change = self.room_bytes(id).is_some() && self.write().take(id).is_some();
        self.count(is_change);
    }

    /// A number that is another one after a change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// All of them, those that are full and those that are nearly so.
    pub fn all(&self) -> Vec<(StorageId, LittleRoom)> {
        self.read().mailboxes.iter().map(|(id, known)| (*id, known.clone())).collect()
    }

    fn count(&self, is_change: bool) {
        if is_change {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// No holder of the lock panics half way: each does one step.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn take(&mut self, id: &StorageId) -> Option<LittleRoom> {
        let taken = self.mailboxes.remove(id)?;
        self.full -= usize::from(taken.room_bytes == 0);
        Some(taken)
    }

    /// Whether there was a place for it.
    fn put(&mut self, id: StorageId, mailbox: LittleRoom) -> bool {
        let is_full = mailbox.room_bytes == 0;
        let has_place = match is_full {
            true => self.full < FULL_MAX,
            false => self.mailboxes.len() - self.full < LITTLE_MAX,
        };
        if has_place {
            self.full += usize::from(is_full);
            self.mailboxes.insert(id, mailbox);
        }
        has_place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_and_counted() {
        let (full, address) = (FullMailboxes::default(), "a@b.example".parse().unwrap());
        let id = StorageId::of(&address).unwrap();
        let state =
            || (full.room_bytes(&id), full.contains(&id), full.count_full(), full.changes());
        full.remove(&id);
        full.note(id, &address, LITTLE_BYTES);
        assert!(full.is_empty());
        assert_eq!(state(), (None, false, 0, 0));
        for _ in 0..2 {
            full.note(id, &address, 0);
            assert_eq!(state(), (Some(0), true, 1, 1));
        }
        full.note(id, &address, 7);
        assert_eq!(state(), (Some(7), false, 0, 2));
        assert_eq!(full.all(), [(id, LittleRoom { address: address.clone(), room_bytes: 7 })]);
        full.note(id, &address, 0);
        full.note(id, &address, u64::MAX);
        assert_eq!(state(), (None, false, 0, 4));
        full.note(id, &address, 0);
        full.remove(&id);
        full.remove(&id);
        assert_eq!(state(), (None, false, 0, 6));
    }

    /// Those with little room take no place from those with none.
    #[test]
    fn what_is_known_is_bounded() {
        let (full, address) = (FullMailboxes::default(), "a@b.example".parse().unwrap());
        let id = |n: usize| format!("{n:064x}").parse::<StorageId>().unwrap();
        (0..LITTLE_MAX + 10).for_each(|n| full.note(id(n), &address, 1));
        assert_eq!((full.all().len(), full.count_full()), (LITTLE_MAX, 0));
        (0..LITTLE_MAX + 10).for_each(|n| full.note(id(n), &address, 0));
        assert_eq!((full.all().len(), full.count_full()), (LITTLE_MAX + 10, LITTLE_MAX + 10));
        assert_eq!(full.room_bytes(&id(LITTLE_MAX + 10)), None);
    }
}
