//! Which mailboxes have no room, by what the server says of mail for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domains::{FullMailboxes, StorageId};
use mail_types::EnhancedStatus;
use outcome::Outcome;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::recipient::Place;

/// How long a server's word is believed. What waits for room is tried again meanwhile, and renews
/// it.
const BELIEVED: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(5);
/// Octets. A mailbox without room for as little takes nothing.
const SMALL: u64 = 64 << 10;

/// The mailboxes that the server took no mail for lately.
#[derive(Debug)]
pub(crate) struct Full {
    told: Arc<FullMailboxes>,
    /// When the server last said so.
    said: Mutex<HashMap<StorageId, Instant>>,
    mailboxes_full: Gauge,
}

impl Full {
    pub(crate) fn new(told: Arc<FullMailboxes>, mailboxes_full: Gauge) -> Self {
        Self { told, said: Mutex::default(), mailboxes_full }
    }

    /// Learns from what became of a message of `size` octets.
    pub(crate) fn learn(&self, place: &Place, size: u64, outcome: &Outcome, now: Instant) {
        let (id, mailbox) = (place.storage.id, place.mailbox.to_string());
        let was_full = self.told.contains(&id);
        match outcome {
            Outcome::Delivered { .. } => self.took(place, size),
            Outcome::Bounced { report } | Outcome::Deferred { report, .. } => {
                if is_about_room(report.reply.status_or_general()) {
                    self.note(place, size, now);
                }
            }
        }
        match (was_full, self.told.contains(&id)) {
            (false, true) => info!(event = "mailbox_full", mailbox),
            (true, false) => info!(event = "mailbox_has_room", mailbox),
            (true, true) | (false, false) => {}
        }
    }

    /// It has room: how much, nobody knows, if it took more than it had room for.
    fn took(&self, place: &Place, size: u64) {
        let id = place.storage.id;
        match self.told.room_bytes(&id) {
            Some(room) if size < room => self.told.note(id, &place.mailbox, room - size),
            Some(_) => self.forget(id),
            None => {}
        }
    }

    fn note(&self, place: &Place, size: u64, now: Instant) {
        let id = place.storage.id;
        let room = if size < SMALL { 0 } else { size - 1 };
        let room_bytes = self.told.room_bytes(&id).map_or(room, |known| known.min(room));
        self.told.note(id, &place.mailbox, room_bytes);
        self.said().insert(id, now);
        self.show();
    }

    /// Forgets for ever what the server has not said again. What another process left is taken for
    /// said now.
    pub(crate) async fn keep_true(&self) {
        loop {
            self.look(Instant::now());
            sleep(LOOK).await;
        }
    }

    fn look(&self, now: Instant) {
        for (id, _) in self.told.all() {
            let said = *self.said().entry(id).or_insert(now);
            if now.duration_since(said) >= BELIEVED {
                self.forget(id);
            }
        }
        self.said().retain(|id, _| self.told.room_bytes(id).is_some());
        self.show();
    }

    fn forget(&self, id: StorageId) {
        self.told.remove(&id);
        self.said().remove(&id);
        self.show();
    }

    fn show(&self) {
        self.mailboxes_full.set(i64::try_from(self.told.count_full()).unwrap_or(i64::MAX));
    }

    /// No holder of the lock panics half way: each does one step.
    fn said(&self) -> MutexGuard<'_, HashMap<StorageId, Instant>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// "Mailbox full" (RFC 3463 §3.3).
fn is_about_room(status: EnhancedStatus) -> bool {
    (status.subject(), status.detail()) == (2, 2)
}

#[cfg(test)]
mod tests {
    use domains::{OnFull, Storage};
    use mail_types::{Mailbox, Reply, ReplyCode, Timestamp};
    use outcome::Delivery;
    use queue::{Report, Wait};

    use super::*;

    fn report(code: u16, status: EnhancedStatus) -> Report {
        let reply = Reply::new(ReplyCode::new(code), status, "so it is");
        Report { at: Timestamp::from_unix_ms(0), remote: None, reply }
    }

    fn deferred(code: u16, status: (u16, u16)) -> Outcome {
        let report = report(code, EnhancedStatus::new(4, status.0, status.1));
        Outcome::Deferred { report, waiting_for: Wait::Time }
    }

    fn place() -> Place {
        let mailbox: Mailbox = "alice@example.org".parse().unwrap();
        let id = StorageId::of(&mailbox).unwrap();
        let storage = Storage { id, quota_bytes: None, on_full: OnFull::Defer };
        Place { used: mailbox.clone(), mailbox, storage, detail: None }
    }

    #[test]
    fn a_mailbox_has_less_room_than_what_was_refused() {
        let (full, place, now) =
            (Full::new(Arc::default(), Gauge::default()), place(), Instant::now());
        let room = || full.told.room_bytes(&place.storage.id);
        let no_room = deferred(452, (2, 2));
        for other in [deferred(452, (3, 1)), deferred(451, (2, 1)), deferred(450, (0, 0))] {
            full.learn(&place, 1, &other, now);
            assert_eq!(room(), None);
        }
        full.learn(&place, SMALL, &no_room, now);
        assert_eq!(room(), Some(SMALL - 1));
        full.learn(&place, SMALL - 1, &no_room, now);
        assert_eq!(room(), Some(0));
        full.learn(&place, SMALL, &no_room, now);
        assert_eq!(room(), Some(0), "a larger one tells nothing new");
        let report = report(250, EnhancedStatus::new(2, 0, 0));
        let delivered = Outcome::Delivered { report, delivery: Delivery::Final };
        full.learn(&place, 1, &delivered, now);
        assert!(full.told.is_empty() && full.said().is_empty());
        // A small one says nothing of large ones.
        full.learn(&place, 5 * SMALL, &no_room, now);
        full.learn(&place, SMALL, &delivered, now);
        assert_eq!(room(), Some(4 * SMALL - 1));
        full.learn(&place, 5 * SMALL, &delivered, now);
        assert_eq!(room(), None);
    }

    #[test]
    fn what_is_not_said_again_is_forgotten() {
        let (full, place, now) =
            (Full::new(Arc::default(), Gauge::default()), place(), Instant::now());
        let is_full = || full.told.contains(&place.storage.id);
        // Of a process before us.
        full.told.note(place.storage.id, &place.mailbox, 0);
        full.look(now);
        full.learn(&place, 1, &deferred(452, (2, 2)), now + BELIEVED / 2);
        full.look(now + BELIEVED);
        assert!(is_full());
        full.look(now + BELIEVED / 2 + BELIEVED);
        assert!(!is_full() && full.said().is_empty());
    }
}
