//! Counts of the last hour, or of the last day.

use std::time::Duration;

use mail_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits::Period;

/// What was counted in each step that is not over yet, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Window(Vec<(u32, u32)>);

impl Window {
    /// Drops what does not count any more. So does what lies far ahead: a clock was wrong then.
    pub(crate) fn forget(&mut self, period: Period, now: Timestamp) {
        let now = period.step(now);
        self.0.retain(|(step, count)| *count > 0 && step.abs_diff(now) <= period.steps());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn used(&self) -> u32 {
        self.0.iter().fold(0, |sum, (_, count)| u32::saturating_add(sum, *count))
    }

    pub(crate) fn add(&mut self, period: Period, at: Timestamp, count: u32) {
        let step = period.step(at);
        match self.0.binary_search_by_key(&step, |(step, _)| *step) {
            Ok(place) => self.0[place].1 = self.0[place].1.saturating_add(count),
            Err(place) => self.0.insert(place, (step, count)),
        }
    }

    /// What was counted at `at` does not count. What has left already does not matter.
    pub(crate) fn take_back(&mut self, period: Period, at: Timestamp, count: u32) {
        let step = period.step(at);
        if let Ok(place) = self.0.binary_search_by_key(&step, |(step, _)| *step) {
            self.0[place].1 = self.0[place].1.saturating_sub(count);
        }
    }

    /// How long it is until less than `limit` is used.
    pub(crate) fn wait(&self, period: Period, limit: u32, now: Timestamp) -> Duration {
        let (mut used, mut until) = (self.used(), now);
        for (step, count) in &self.0 {
            if used < limit {
                break;
            }
            used = used.saturating_sub(*count);
            let end = i64::from(*step) + i64::from(period.steps()) + 1;
            until = Timestamp::from_unix_ms(end * i64::from(period.step_seconds()) * 1000);
        }
        until.since(now)
    }
}
