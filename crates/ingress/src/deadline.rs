//! A time limit that moves often and rarely passes.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer of a session.
///
/// Moving it later costs a reading of the clock: the timer itself is armed anew only when it fires.
pub(crate) struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        let at = Instant::now() + timeout;
        Self { at, timer: Box::pin(sleep_until(at)) }
    }

    pub(crate) fn set(&mut self, timeout: Duration) {
        self.set_at(Instant::now() + timeout);
    }

    pub(crate) fn set_at(&mut self, at: Instant) {
        self.at = at;
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
    }

    /// Returns when the time has passed. Cancel-safe.
    pub(crate) async fn passed(&mut self) {
        loop {
            self.timer.as_mut().await;
            if Instant::now() >= self.at {
                return;
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn moves_both_ways() {
        let start = Instant::now();
        let mut deadline = Deadline::after(Duration::from_millis(5));
        deadline.set(Duration::from_millis(30));
        deadline.passed().await;
        assert!(start.elapsed() >= Duration::from_millis(30));
        let mut deadline = Deadline::after(Duration::from_secs(600));
        deadline.set(Duration::from_millis(1));
        deadline.passed().await;
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
