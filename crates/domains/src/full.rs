//! Which mailboxes are full, as far as is known.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mail_types::Mailbox;

use crate::storage::StorageId;

/// Mailboxes that are remembered as full at most. Others are taken for such that have room.
const FULL_MAX: usize = 500_000;

/// The full mailboxes: told by whoever stores mail, asked by whoever accepts it.
///
/// What is not in it has room: that nothing is known of a mailbox never refuses its mail.
#[derive(Debug, Default)]
pub struct FullMailboxes {
    addresses: RwLock<HashMap<StorageId, Mailbox>>,
    changes: AtomicU64,
}

impl FullMailboxes {
    pub fn contains(&self, id: &StorageId) -> bool {
        self.read().contains_key(id)
    }

    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether that is new.
    pub fn insert(&self, id: StorageId, address: &Mailbox) -> bool {
        if self.contains(&id) {
            return false;
        }
        let mut addresses = self.write();
        let is_new = addresses.len() < FULL_MAX && addresses.insert(id, address.clone()).is_none();
        drop(addresses);
        self.count(is_new)
    }

    /// Whether it was there.
    pub fn remove(&self, id: &StorageId) -> bool {
        // Most mailboxes are not full: they only look.
        let was_there = self.contains(id) && self.write().remove(id).is_some();
        self.count(was_there)
    }

    /// A number that is another one after a change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// All of them, with the addresses of the mailboxes.
    pub fn all(&self) -> Vec<(StorageId, Mailbox)> {
        self.read().iter().map(|(id, address)| (*id, address.clone())).collect()
    }

    fn count(&self, is_change: bool) -> bool {
        if is_change {
            self.changes.fetch_add(1, Ordering::Release);
        }
        is_change
    }

    /// No holder of the lock panics half way: each does one step.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<StorageId, Mailbox>> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<StorageId, Mailbox>> {
        self.addresses.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_and_counted() {
        let (full, address) = (FullMailboxes::default(), "a@b.example".parse().unwrap());
        let id = StorageId::of(&address).unwrap();
        assert!(full.is_empty() && !full.contains(&id) && !full.remove(&id));
        assert_eq!(full.changes(), 0);
        assert!(full.insert(id, &address) && !full.insert(id, &address));
        assert_eq!((full.len(), full.changes()), (1, 1));
        assert_eq!(full.all(), [(id, address)]);
        assert!(full.contains(&id) && full.remove(&id) && !full.remove(&id));
        assert_eq!((full.len(), full.changes()), (0, 2));
    }
}
