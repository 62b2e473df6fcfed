//! Group commit: while writes to a stream are under way, those that come wait, and go together.
//!
//! A stream that is replicated, or synced for each acknowledgement, costs its servers one round for
//! whatever reaches them at once. From many sessions messages come one by one; sent so, each is a
//! round of its own. Who finds nothing under way does not wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// The longest that a write waits for those before it.
const PATIENCE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Group {
    under_way: usize,
    free: Arc<Notify>,
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
        let free = self.change(group, |group| {
            (group.under_way > 0).then(|| Arc::clone(&group.free).notified_owned())
        });
        if let Some(free) = free {
            // Either way it goes.
            let _ = tokio::time::timeout(PATIENCE, free).await;
        }
        self.change(group, |group| group.under_way += 1);
        Pass { turnstile: self, group: group.to_owned() }
    }

    fn change<T>(&self, group: &str, change: impl FnOnce(&mut Group) -> T) -> T {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get_mut(group) {
            return change(group);
        }
        change(groups.entry(group.to_owned()).or_default())
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.turnstile.change(&self.group, |group| {
            group.under_way -= 1;
            if group.under_way == 0 {
                group.free.notify_waiters();
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
        // The third is stuck: it keeps nobody for long.
        let fourth = turnstile.enter("intake").await;
        assert_eq!(start.elapsed(), half + PATIENCE);
        drop((third, fourth));
        drop(turnstile.enter("intake").await);
        assert_eq!(start.elapsed(), half + PATIENCE);
    }
}
