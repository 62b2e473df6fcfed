//! Messages that ended here lately, should they come again.
//!
//! A server answers an acknowledgement when it has proposed what that says, not when the others
//! have agreed, and tells them of a delivery no sooner. One that fails may take both with it: the
//! next leader delivers the message for the first time, as far as it knows.

use std::collections::HashSet;
use std::time::Duration;

use mail_types::QueueId;
use tokio::time::Instant;

/// Of each half: 5 MB.
const HALF_MAX: usize = 200_000;

/// In two halves, of which the older goes as a whole.
pub(crate) struct Lately {
    keep: Duration,
    young: HashSet<QueueId>,
    old: HashSet<QueueId>,
    young_since: Instant,
}

impl Lately {
    /// Knows the messages that ended within `keep`, and some that did before; where there are very
    /// many, the last 200,000 and no more than twice as many.
    pub(crate) fn new(keep: Duration, now: Instant) -> Self {
        Self { keep, young: HashSet::new(), old: HashSet::new(), young_since: now }
    }

    pub(crate) fn note(&mut self, id: QueueId, now: Instant) {
        if now - self.young_since >= self.keep || self.young.len() >= HALF_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_since = now;
        }
        self.young.insert(id);
    }

    pub(crate) fn contains(&self, id: QueueId) -> bool {
        self.young.contains(&id) || self.old.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use mail_types::Timestamp;

    use super::*;

    #[test]
    fn what_ended_lately_is_known() {
        let (keep, start) = (Duration::from_secs(20), Instant::now());
        let mut lately = Lately::new(keep, start);
        let id = |n| QueueId::new(Timestamp::from_unix_ms(1_000_000 + n), 1);
        let since = |lately: &Lately| (0..100).find(|n| lately.contains(id(*n)));
        for n in 0..100 {
            lately.note(id(n), start + Duration::from_secs(n as u64));
            assert!(lately.contains(id(n)) && !lately.contains(id(n + 1)));
            assert!(since(&lately).is_some_and(|since| since <= (n - 20).max(0)), "{n}");
        }
        assert_eq!(since(&lately), Some(60), "and no more than twice as long");
        for n in 0..HALF_MAX as i64 * 3 {
            lately.note(id(n), start + Duration::from_secs(100));
        }
        assert!(lately.young.len() + lately.old.len() <= HALF_MAX * 2);
    }
}
