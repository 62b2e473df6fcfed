//! Group commit: while writes to a stream are under way, those that come wait, and go together.
//!
//! A stream that is replicated, or synced for each acknowledgement, costs its servers one round for
//! whatever reaches them at once. From many sessions messages come one by one; sent so, each is a
//! round of its own. Who finds nothing under way does not wait; and nobody waits for long, but also
//! then those who wait go together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

/// Between two departures while something is under way.
const PATIENCE: Duration = Duration::from_millis(20);

struct Group {
    under_way: usize,
    /// When those that waited went.
    departed: Instant,
    departure: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct Turnstile {
    groups: Mutex<HashMap<String, Group>>,
}

/// A write is under way until this is dropped.
pub(crate) struct Pass<'a> {
    turnstile: &'a Turnstile,
    group: String,
}

impl Turnstile {
    /// Waits until nothing of the group is under way, but not for long.
    pub(crate) async fn enter(&self, group: &str) -> Pass<'_> {
        let wait = self.change(group, |group| {
            (group.under_way > 0).then(|| (group.next_departure(), group.departed + PATIENCE))
        });
        self.wait(group, wait).await;
        self.change(group, |group| group.under_way += 1);
        Pass { turnstile: self, group: group.to_owned() }
    }

    /// Waits until `beat` after those of the group who went last, whatever became of them.
    pub(crate) async fn enter_in_time(&self, group: &str, beat: Duration) {
        let wait = self.change(group, |group| {
            let next = group.departed + beat;
            if next <= Instant::now() {
                group.depart();
                return None;
            }
            Some((group.next_departure(), next))
        });
        self.wait(group, wait).await;
    }

    async fn wait(&self, group: &str, wait: Option<(OwnedNotified, Instant)>) {
        if let Some((departure, latest)) = wait
            && timeout_at(latest, departure).await.is_err()
        {
            self.change(group, Group::depart);
        }
    }

    fn change<T>(&self, group: &str, change: impl FnOnce(&mut Group) -> T) -> T {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get_mut(group) {
            return change(group);
        }
        change(groups.entry(group.to_owned()).or_insert_with(Group::new))
    }
}

impl Group {
    fn new() -> Self {
        Self { under_way: 0, departed: Instant::now(), departure: Arc::default() }
    }

    fn next_departure(&self) -> OwnedNotified {
        Arc::clone(&self.departure).notified_owned()
    }

    /// All who wait go.
    fn depart(&mut self) {
        self.departed = Instant::now();
        self.departure.notify_waiters();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.turnstile.change(&self.group, |group| {
            group.under_way -= 1;
            if group.under_way == 0 {
                group.depart();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_come_meanwhile_go_together() {
        let turnstile = Turnstile::default();
        let start = Instant::now();
        let first = turnstile.enter("intake").await;
        drop(turnstile.enter("jobs-s0").await);
        assert_eq!(start.elapsed(), Duration::ZERO, "nothing is under way");
        let half = PATIENCE / 2;
        let ends = async {
            tokio::time::sleep(half).await;
            drop(first);
        };
        let two = futures::future::join(turnstile.enter("intake"), turnstile.enter("intake"));
        let (_, (second, third)) = futures::future::join(ends, two).await;
        assert_eq!(start.elapsed(), half);
        drop(second);
        // The third is stuck: it keeps nobody for long, and those who wait for it go together.
        let two = async {
            let fourth = turnstile.enter("intake").await;
            tokio::time::sleep(half).await;
            drop(fourth);
        };
        let later = async {
            tokio::time::sleep(half).await;
            turnstile.enter("intake").await
        };
        let ((), fifth) = futures::future::join(two, later).await;
        assert_eq!(start.elapsed(), half + PATIENCE + half, "the fourth held nobody up");
        drop((third, fifth));
        let last = start.elapsed();
        drop(turnstile.enter("intake").await);
        assert_eq!(start.elapsed(), last);
    }

    #[tokio::test(start_paused = true)]
    async fn in_time_means_one_group_a_beat() {
        let turnstile = Turnstile::default();
        let beat = Duration::from_millis(10);
        tokio::time::sleep(beat).await;
        turnstile.enter_in_time("acks", beat).await;
        let start = Instant::now();
        for departures in 1..4 {
            tokio::time::sleep(beat / 2).await;
            let some = (0..5).map(|_| turnstile.enter_in_time("acks", beat));
            futures::future::join_all(some).await;
            assert_eq!(start.elapsed(), beat * departures);
        }
        tokio::time::sleep(beat).await;
        let idle = Instant::now();
        turnstile.enter_in_time("acks", beat).await;
        assert_eq!(idle.elapsed(), Duration::ZERO, "nobody went in the last beat");
    }
}
