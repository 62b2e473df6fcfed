//! Which passwords were used, on their way to where that is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domains::Identity;
use senders::{LastUse, LastUseStore, LastUses};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Between two writes: each password is written so seldom, however often it is used.
const PAUSE: Duration = Duration::from_secs(60);
/// How long the last write may take when the process stops.
const LAST_WRITE: Duration = Duration::from_secs(5);
/// Logins that wait to be written; of more, uses are forgotten.
const WAITING_MAX: usize = 10_000;

/// The uses of passwords that are not written yet.
pub struct Uses {
    store: Arc<dyn LastUseStore>,
    waiting: Mutex<BTreeMap<String, LastUses>>,
    woken: Notify,
    pause: Duration,
}

impl Uses {
    pub fn new(store: Arc<dyn LastUseStore>) -> Self {
        Self { store, waiting: Mutex::default(), woken: Notify::new(), pause: PAUSE }
    }

    /// Notes that the password of this hash let somebody in, by this listener.
    pub fn note(&self, identity: &Identity, hash: &str, by: &str) {
        let name = identity.passwords().find_map(|(name, own)| (own == hash).then_some(name));
        let Some(name) = name else { return };
        let last_use = LastUse { at: runtime::clock::now(), by: by.to_owned() };
        let mut uses = LastUses::default();
        uses.add(name, last_use);
        self.put(BTreeMap::from([(identity.login().to_owned(), uses)]));
    }

    fn put(&self, uses: BTreeMap<String, LastUses>) {
        // A panic while noting leaves notes, not broken ones.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (login, uses) in uses {
            if waiting.len() < WAITING_MAX || waiting.contains_key(&login) {
                waiting.entry(login).or_default().merge(uses);
            }
        }
        self.woken.notify_one();
    }

    /// Writes what was noted until `stop`: the first use at once, later ones within a minute.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_WRITE).await;
        };
        // Also a write that has begun before: of many logins it takes long when nobody answers.
        // Whatever is under way may be dropped then: a last use is written or it is not.
        tokio::select! {
            biased;
            () = self.write_until(&stop) => {}
            () = too_late => tracing::warn!(event = "last_uses_lost", "not written in time"),
        }
    }

    async fn write_until(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(self.woken.notified()).await.is_some() {
            self.write().await;
            // Cancel-safe: nothing is under way.
            stop.run_until_cancelled(tokio::time::sleep(self.pause)).await;
        }
        self.write().await;
    }

    async fn write(&self) {
        let uses = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.store.add(&uses).await {
            tracing::warn!(event = "last_uses_wait", logins = uses.len(), %error);
            self.put(uses);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use mail_types::Timestamp;
    use senders::Unstored;

    use super::*;

    #[derive(Default)]
    struct Store {
        kept: Mutex<BTreeMap<String, LastUses>>,
        writes: AtomicUsize,
        is_sick: AtomicBool,
        is_silent: AtomicBool,
    }

    #[async_trait]
    impl LastUseStore for Store {
        async fn add(&self, uses: &BTreeMap<String, LastUses>) -> Result<(), Unstored> {
            self.writes.fetch_add(1, Ordering::SeqCst);
            if self.is_silent.load(Ordering::SeqCst) {
                std::future::pending().await
            }
            if self.is_sick.load(Ordering::SeqCst) {
                return Err(Unstored("sick".to_owned()));
            }
            self.kept.lock().unwrap().extend(uses.clone());
            Ok(())
        }

        async fn of(&self, login: &str) -> Result<LastUses, Unstored> {
            Ok(self.kept.lock().unwrap().get(login).cloned().unwrap_or_default())
        }
    }

    fn used(login: &str, ms: i64) -> BTreeMap<String, LastUses> {
        let mut uses = LastUses::default();
        let at = Timestamp::from_unix_ms(ms);
        uses.add("phone", LastUse { at, by: "submission".to_owned() });
        BTreeMap::from([(login.to_owned(), uses)])
    }

    async fn until(store: &Store, writes: usize) {
        while store.writes.load(Ordering::SeqCst) < writes {
            tokio::task::yield_now().await;
        }
    }

    async fn kept(store: &Store, login: &str) -> Option<i64> {
        store.of(login).await.unwrap().latest().map(Timestamp::unix_ms)
    }

    #[tokio::test]
    async fn the_first_use_at_once_and_later_ones_together() {
        let store = Arc::new(Store::default());
        let uses = Arc::new(Uses::new(store.clone()));
        let (stop, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
        tasks.spawn(Arc::clone(&uses).keep(stop.clone()));
        uses.put(used("a", 1));
        until(&store, 1).await;
        assert_eq!(kept(&store, "a").await, Some(1));
        (2..100).for_each(|ms| uses.put(used("a", ms)));
        uses.put(used("b", 5));
        stop.cancel();
        tasks.join_all().await;
        assert_eq!((kept(&store, "a").await, kept(&store, "b").await), (Some(99), Some(5)));
        assert_eq!(store.writes.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_again() {
        let store = Arc::new(Store::default());
        store.is_sick.store(true, Ordering::SeqCst);
        let uses = Arc::new(Uses { pause: Duration::ZERO, ..Uses::new(store.clone()) });
        let (stop, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
        tasks.spawn(Arc::clone(&uses).keep(stop.clone()));
        uses.put(used("a", 1));
        until(&store, 2).await;
        store.is_sick.store(false, Ordering::SeqCst);
        while kept(&store, "a").await.is_none() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        tasks.join_all().await;
    }

    /// Neither a write that is under way nor the last one holds the process up for longer.
    #[tokio::test(start_paused = true)]
    async fn a_silent_store_is_not_waited_for_when_the_process_stops() {
        for begins_before in [true, false] {
            let store = Arc::new(Store::default());
            store.is_silent.store(true, Ordering::SeqCst);
            let uses = Arc::new(Uses::new(store.clone()));
            let (stop, mut tasks) = (CancellationToken::new(), tokio::task::JoinSet::new());
            if !begins_before {
                stop.cancel();
            }
            tasks.spawn(Arc::clone(&uses).keep(stop.clone()));
            uses.put(used("a", 1));
            until(&store, 1).await;
            stop.cancel();
            let ended = tokio::time::timeout(2 * LAST_WRITE, tasks.join_all()).await;
            assert!(ended.is_ok(), "a write that has begun before: {begins_before}");
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let uses = Uses::new(Arc::new(Store::default()));
        (0..WAITING_MAX + 10).for_each(|n| uses.put(used(&format!("u{n}"), 1)));
        uses.put(used("u0", 2));
        let waiting = uses.waiting.lock().unwrap();
        assert_eq!(waiting.len(), WAITING_MAX);
        assert_eq!(waiting["u0"].latest(), Some(Timestamp::from_unix_ms(2)));
    }
}
