//! How much mailboxes hold, and which of them are full.
//!
//! What a mailbox holds is counted from the names of its files, and the count is kept up to date
//! with what is stored here. Its owner deletes and adds mail without a word to us, so a count is
//! believed for some minutes, and for seconds where it would call a mailbox full.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use domains::{FullMailboxes, Storage, StorageId, Table};
use mail_types::Mailbox;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info};

use crate::maildir::{Store, count};

/// How long a count is believed of a mailbox that has room.
const BELIEVED: Duration = Duration::from_secs(600);
/// How long it is believed when by it a mailbox is full, or is about to be.
const BELIEVED_NEAR_FULL: Duration = Duration::from_secs(5);
/// Counts that are kept.
const KNOWN_MAX: usize = 100_000;
/// Between two looks at the full mailboxes: their owners may have made room.
const LOOK_AT_FULL: Duration = Duration::from_secs(5);
/// Between two looks at all: others than we add mail, and quotas are changed.
const LOOK_AT_ALL: Duration = Duration::from_secs(600);
/// After a look, so many times as long as it took is nothing done: looking costs a twentieth.
const REST: u32 = 19;

/// What is known of a mailbox.
#[derive(Clone, Copy, Debug)]
struct Count {
    bytes: u64,
    at: Instant,
}

/// Whether there is room for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Enough,
    Lacking,
    /// The mailbox has to be counted.
    Unknown,
}

/// What mailboxes with a quota hold, as far as it is known.
#[derive(Debug)]
pub(crate) struct Usage {
    counts: Mutex<HashMap<StorageId, Count>>,
    full: Arc<FullMailboxes>,
    mailboxes_full: Gauge,
}

impl Usage {
    pub(crate) fn new(full: Arc<FullMailboxes>, mailboxes_full: Gauge) -> Self {
        Self { counts: Mutex::default(), full, mailboxes_full }
    }

    /// Takes room for a message. If that is not stored then, the mailbox is to be
    /// [forgotten](Self::forget).
    pub(crate) fn take(&self, storage: &Storage, size: u64, now: Instant) -> Room {
        let mut counts = self.counts();
        let Some(count) = counts.get_mut(&storage.id) else { return Room::Unknown };
        let with_it = count.bytes.saturating_add(size);
        let believed = if storage.is_full(with_it) { BELIEVED_NEAR_FULL } else { BELIEVED };
        if now.duration_since(count.at) >= believed {
            return Room::Unknown;
        }
        if !storage.admits(count.bytes, size) {
            return Room::Lacking;
        }
        count.bytes = with_it;
        Room::Enough
    }

    /// Notes what a mailbox holds.
    pub(crate) fn counted(&self, id: StorageId, bytes: u64, now: Instant) {
        let mut counts = self.counts();
        if counts.len() >= KNOWN_MAX && !counts.contains_key(&id) {
            // Any: which ones are needed again is not known, and to count is not dear.
            let any = counts.keys().next().copied();
            any.map(|any| counts.remove(&any));
        }
        counts.insert(id, Count { bytes, at: now });
    }

    /// Has a mailbox counted before it is believed anything of.
    pub(crate) fn forget(&self, id: &StorageId) {
        self.counts().remove(id);
    }

    /// Tells everybody whether a mailbox is full, by what is known of it.
    pub(crate) fn tell(&self, address: &Mailbox, storage: &Storage) {
        let Some(bytes) = self.counts().get(&storage.id).map(|count| count.bytes) else { return };
        let Storage { id, quota_bytes, .. } = *storage;
        let mailbox = || address.to_string();
        if storage.is_full(bytes) {
            if self.full.insert(id, address) {
                info!(event = "mailbox_full", mailbox = mailbox(), bytes, quota_bytes);
            }
        } else if self.full.remove(&id) {
            info!(event = "mailbox_has_room", mailbox = mailbox(), bytes, quota_bytes);
        }
        self.show();
    }

    /// Looks at mailboxes for ever: often at those that are full, now and then at all with a quota.
    pub(crate) async fn keep_true(&self, store: &Arc<Store>, domains: &ArcSwapOption<Table>) {
        tokio::join!(self.look_at_full(store, domains), self.look_at_all(store, domains));
    }

    async fn look_at_full(&self, store: &Arc<Store>, domains: &ArcSwapOption<Table>) {
        loop {
            sleep(LOOK_AT_FULL).await;
            for (id, address) in self.full.all() {
                let Some(table) = domains.load_full() else { break };
                let storage = table.storage(&address).filter(|storage| storage.id == id);
                match storage.filter(|storage| storage.quota_bytes.is_some()) {
                    Some(storage) => self.look(store, &address, &storage).await,
                    // It has no quota any more, or is gone.
                    None => {
                        self.full.remove(&id);
                    }
                }
            }
            self.show();
        }
    }

    async fn look_at_all(&self, store: &Arc<Store>, domains: &ArcSwapOption<Table>) {
        loop {
            let again = Instant::now() + LOOK_AT_ALL;
            if let Some(table) = domains.load_full() {
                for (address, storage) in table.mailboxes_with_quota() {
                    self.look(store, &address, &storage).await;
                }
            }
            sleep_until(again).await;
        }
    }

    async fn look(&self, store: &Arc<Store>, address: &Mailbox, storage: &Storage) {
        let (began, inbox) = (Instant::now(), store.inbox(storage));
        let counted = tokio::task::spawn_blocking(move || count(&inbox)).await;
        match counted.map_err(std::io::Error::other).flatten() {
            Ok(held) => {
                self.counted(storage.id, held.bytes, began);
                self.tell(address, storage);
            }
            Err(error) => debug!(%address, %error, "the mailbox cannot be counted"),
        }
        sleep(began.elapsed() * REST).await;
    }

    fn show(&self) {
        self.mailboxes_full.set(i64::try_from(self.full.len()).unwrap_or(i64::MAX));
    }

    /// No holder of the lock panics half way: each does one step.
    fn counts(&self) -> MutexGuard<'_, HashMap<StorageId, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use domains::OnFull;

    use super::*;

    struct Fixture {
        usage: Usage,
        full: Arc<FullMailboxes>,
        address: Mailbox,
        storage: Storage,
        now: Instant,
    }

    fn fixture() -> Fixture {
        let full = Arc::new(FullMailboxes::default());
        let address: Mailbox = "alice@example.org".parse().unwrap();
        let id = StorageId::of(&address).unwrap();
        let storage = Storage { id, quota_bytes: Some(1000), on_full: OnFull::Defer };
        let usage = Usage::new(full.clone(), Gauge::default());
        Fixture { usage, full, address, storage, now: Instant::now() }
    }

    #[test]
    fn room_is_taken_until_there_is_none() {
        let Fixture { usage, full, address, storage, now } = fixture();
        let take = |size| usage.take(&storage, size, now);
        assert_eq!(take(1), Room::Unknown);
        usage.counted(storage.id, 400, now);
        assert_eq!(take(500), Room::Enough);
        usage.tell(&address, &storage);
        assert!(full.is_empty());
        assert_eq!(take(500), Room::Enough, "the one that fills it");
        assert_eq!(take(1), Room::Lacking);
        usage.tell(&address, &storage);
        assert!(full.contains(&storage.id));
        usage.forget(&storage.id);
        assert_eq!(take(1), Room::Unknown);
        usage.tell(&address, &storage);
        assert!(full.contains(&storage.id), "nothing is known");
        usage.counted(storage.id, 999, now);
        usage.tell(&address, &storage);
        assert!(full.is_empty());
    }

    #[test]
    fn a_count_is_believed_the_shorter_the_more_it_matters() {
        let Fixture { usage, storage, now, .. } = fixture();
        usage.counted(storage.id, 0, now);
        let later = now + BELIEVED_NEAR_FULL;
        assert_eq!(usage.take(&storage, 999, later), Room::Enough);
        assert_eq!(usage.take(&storage, 1, later), Room::Unknown);
        usage.counted(storage.id, 0, now);
        assert_eq!(usage.take(&storage, 1, now + BELIEVED), Room::Unknown);
    }

    #[test]
    fn counts_are_bounded() {
        let Fixture { usage, now, .. } = fixture();
        for n in 0..KNOWN_MAX + 10 {
            let id = format!("{n:064x}").parse().unwrap();
            usage.counted(id, 1, now);
        }
        assert_eq!(usage.counts().len(), KNOWN_MAX);
    }
}
