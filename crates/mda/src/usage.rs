//! How much mailboxes hold, and which of them are full.
//!
//! What a mailbox holds is counted from the names of its files, and the count is kept up to date
//! with what is stored here. Its owner deletes and adds mail without a word to us, so a count is
//! believed for some minutes, and for seconds where it would call a mailbox full.
//!
//! Counting takes time, in which mail is stored: what had not ended when a count began is added to
//! it. Some of that may have been counted: too much is told then, and soon counted again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use domains::{FullMailboxes, LittleRoom, Storage, StorageId, Table};
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
/// Between two looks at the mailboxes with little room or none: their owners may have made some.
const LOOK_AT_LITTLE: Duration = Duration::from_secs(5);
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

/// What is going on in a mailbox; there while anything is.
#[derive(Default, Debug)]
struct Work {
    /// Messages being written, and counts.
    going_on: usize,
    /// Octets of messages that were begun.
    begun: u64,
    /// Octets of those that have ended.
    ended: u64,
}

/// Whether there is room for a message.
#[derive(Debug)]
pub(crate) enum Room<'a> {
    Enough(Writing<'a>),
    Lacking,
    /// The mailbox has to be counted.
    Unknown,
}

/// A message that has its room. Unless it is stored, the mailbox is counted again before anything
/// is believed of it.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    usage: &'a Usage,
    id: StorageId,
    size: u64,
    is_stored: bool,
}

/// A mailbox that is being counted.
#[derive(Debug)]
pub(crate) struct Counting<'a> {
    usage: &'a Usage,
    id: StorageId,
    /// Octets that had ended when it began.
    ended_before: u64,
}

#[derive(Default, Debug)]
struct Counts {
    known: HashMap<StorageId, Count>,
    /// As many as messages are written and mailboxes counted at once.
    work: HashMap<StorageId, Work>,
}

/// What mailboxes with a quota hold, as far as it is known.
#[derive(Debug)]
pub(crate) struct Usage {
    counts: Mutex<Counts>,
    full: Arc<FullMailboxes>,
    mailboxes_full: Gauge,
}

impl Usage {
    pub(crate) fn new(full: Arc<FullMailboxes>, mailboxes_full: Gauge) -> Self {
        Self { counts: Mutex::default(), full, mailboxes_full }
    }

    /// Takes room for a message.
    pub(crate) fn take(&self, storage: &Storage, size: u64, now: Instant) -> Room<'_> {
        let mut counts = self.counts();
        let Some(count) = counts.known.get(&storage.id) else { return Room::Unknown };
        let with_it = count.bytes.saturating_add(size);
        let believed = if storage.is_full(with_it) { BELIEVED_NEAR_FULL } else { BELIEVED };
        if now.duration_since(count.at) >= believed {
            return Room::Unknown;
        }
        if !storage.admits(count.bytes, size) {
            return Room::Lacking;
        }
        Room::Enough(self.begin(&mut counts, storage.id, size))
    }

    /// The same where there is none.
    pub(crate) fn take_anyway(&self, storage: &Storage, size: u64) -> Writing<'_> {
        self.begin(&mut self.counts(), storage.id, size)
    }

    fn begin(&self, counts: &mut Counts, id: StorageId, size: u64) -> Writing<'_> {
        if let Some(count) = counts.known.get_mut(&id) {
            count.bytes = count.bytes.saturating_add(size);
        }
        counts.begin(id).begun += size;
        Writing { usage: self, id, size, is_stored: false }
    }

    /// Before the files of a mailbox are counted.
    pub(crate) fn count(&self, id: StorageId) -> Counting<'_> {
        Counting { usage: self, id, ended_before: self.counts().begin(id).ended }
    }

    /// Tells everybody how much room a mailbox has, by what is known of it.
    pub(crate) fn tell(&self, address: &Mailbox, storage: &Storage) {
        let known = self.counts().known.get(&storage.id).map(|count| count.bytes);
        let Some(bytes) = known else { return };
        let Storage { id, quota_bytes, .. } = *storage;
        let mailbox = || address.to_string();
        let was_full = self.full.contains(&id);
        let room_bytes = quota_bytes.map_or(u64::MAX, |quota| quota.saturating_sub(bytes));
        self.full.note(id, address, room_bytes);
        match (was_full, self.full.contains(&id)) {
            (false, true) => info!(event = "mailbox_full", mailbox = mailbox(), bytes, quota_bytes),
            (true, false) => {
                info!(event = "mailbox_has_room", mailbox = mailbox(), bytes, quota_bytes);
            }
            (true, true) | (false, false) => {}
        }
        self.show();
    }

    /// Looks at mailboxes for ever: often at those that are full, and apart from them at those that
    /// are nearly so; now and then at all with a quota.
    pub(crate) async fn keep_true(&self, store: &Arc<Store>, domains: &ArcSwapOption<Table>) {
        tokio::join!(
            self.look_at_little(store, domains, |room_bytes| room_bytes == 0),
            self.look_at_little(store, domains, |room_bytes| room_bytes > 0),
            self.look_at_all(store, domains),
        );
    }

    async fn look_at_little(
        &self,
        store: &Arc<Store>,
        domains: &ArcSwapOption<Table>,
        is_meant: impl Fn(u64) -> bool,
    ) {
        loop {
            sleep(LOOK_AT_LITTLE).await;
            let mut all = self.full.all();
            all.retain(|(_, known)| is_meant(known.room_bytes));
            for (id, LittleRoom { address, .. }) in all {
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
        let counting = self.count(storage.id);
        let counted = tokio::task::spawn_blocking(move || count(&inbox)).await;
        match counted.map_err(std::io::Error::other).flatten() {
            Ok(held) => {
                counting.done(held.bytes, began);
                self.tell(address, storage);
            }
            Err(error) => debug!(%address, %error, "the mailbox cannot be counted"),
        }
        sleep(began.elapsed() * REST).await;
    }

    fn show(&self) {
        self.mailboxes_full.set(i64::try_from(self.full.count_full()).unwrap_or(i64::MAX));
    }

    /// No holder of the lock panics half way: each does one step.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn begin(&mut self, id: StorageId) -> &mut Work {
        let work = self.work.entry(id).or_default();
        work.going_on += 1;
        work
    }

    /// One ends that was begun, of so many octets.
    fn end(&mut self, id: StorageId, size: u64) {
        let Entry::Occupied(mut work) = self.work.entry(id) else { return };
        work.get_mut().going_on -= 1;
        work.get_mut().ended += size;
        if work.get().going_on == 0 {
            work.remove();
        }
    }

    fn know(&mut self, id: StorageId, count: Count) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&id) {
            // Any: which ones are needed again is not known, and to count is not dear.
            let any = self.known.keys().next().copied();
            any.map(|any| self.known.remove(&any));
        }
        self.known.insert(id, count);
    }
}

impl Writing<'_> {
    /// The message is stored.
    pub(crate) fn stored(mut self) {
        self.is_stored = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut counts = self.usage.counts();
        counts.end(self.id, self.size);
        if !self.is_stored {
            counts.known.remove(&self.id);
        }
    }
}

impl Counting<'_> {
    /// Notes what the files hold that were there `at` the beginning.
    pub(crate) fn done(self, bytes: u64, at: Instant) {
        let mut counts = self.usage.counts();
        let begun = counts.work.get(&self.id).map_or(0, |work| work.begun);
        let bytes = bytes.saturating_add(begun.saturating_sub(self.ended_before));
        counts.know(self.id, Count { bytes, at });
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.usage.counts().end(self.id, 0);
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

    fn store(room: Room<'_>) {
        let Room::Enough(writing) = room else { panic!("{room:?}") };
        writing.stored();
    }

    #[test]
    fn room_is_taken_until_there_is_none() {
        let Fixture { usage, full, address, storage, now } = fixture();
        let take = |size| usage.take(&storage, size, now);
        assert!(matches!(take(1), Room::Unknown));
        usage.count(storage.id).done(400, now);
        store(take(500));
        usage.tell(&address, &storage);
        assert_eq!((full.room_bytes(&storage.id), full.count_full()), (Some(100), 0));
        let Room::Enough(fills_it) = take(500) else { panic!("no room") };
        assert!(matches!(take(1), Room::Lacking));
        usage.take_anyway(&storage, 1).stored();
        assert!(matches!(take(1), Room::Lacking));
        usage.tell(&address, &storage);
        assert!(full.contains(&storage.id));
        drop(fills_it);
        assert!(matches!(take(1), Room::Unknown), "it was not stored");
        usage.tell(&address, &storage);
        assert!(full.contains(&storage.id), "nothing is known");
        usage.count(storage.id).done(999, now);
        usage.tell(&address, &storage);
        assert_eq!((full.room_bytes(&storage.id), full.count_full()), (Some(1), 0));
        usage.tell(&address, &Storage { quota_bytes: None, ..storage });
        assert!(full.is_empty());
        assert!(usage.counts().work.is_empty(), "all has ended");
    }

    /// The files may have been counted before the message was there.
    #[test]
    fn what_is_stored_during_a_count_is_added_to_it() {
        let Fixture { usage, storage, now, .. } = fixture();
        let take = |size| usage.take(&storage, size, now);
        let held = || usage.counts().known.get(&storage.id).map(|count| count.bytes);
        usage.count(storage.id).done(0, now);
        store(take(1));
        let Room::Enough(begun_before) = take(20) else { panic!("no room") };
        let counting = usage.count(storage.id);
        begun_before.stored();
        store(take(300));
        let Room::Enough(goes_on) = take(400) else { panic!("no room") };
        counting.done(1, now);
        assert_eq!(held(), Some(721));
        goes_on.stored();
        assert_eq!(held(), Some(721));
        // Two deliveries count at once, and the slower ends when the other has stored.
        let slower = usage.count(storage.id);
        usage.count(storage.id).done(721, now);
        store(take(2));
        slower.done(721, now);
        assert_eq!(held(), Some(723));
        assert!(usage.counts().work.is_empty(), "all has ended");
    }

    #[test]
    fn a_count_is_believed_the_shorter_the_more_it_matters() {
        let Fixture { usage, storage, now, .. } = fixture();
        usage.count(storage.id).done(0, now);
        let later = now + BELIEVED_NEAR_FULL;
        store(usage.take(&storage, 999, later));
        assert!(matches!(usage.take(&storage, 1, later), Room::Unknown));
        usage.count(storage.id).done(0, now);
        assert!(matches!(usage.take(&storage, 1, now + BELIEVED), Room::Unknown));
    }

    #[test]
    fn counts_are_bounded() {
        let Fixture { usage, now, .. } = fixture();
        for n in 0..KNOWN_MAX + 10 {
            let id = format!("{n:064x}").parse().unwrap();
            usage.count(id).done(1, now);
        }
        assert_eq!(usage.counts().known.len(), KNOWN_MAX);
    }
}
