//! Outcomes of the last hour, by what was said.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use mail_types::Timestamp;
use queue::{RecipientStatus, Settlement};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::reason::reason;

/// Minutes that are counted.
const MINUTES: i64 = 60;
/// Reasons of a minute that are told apart; those that come after are counted as [`OTHER`].
const REASONS_MAX: usize = 100;
/// Rows of an answer.
const ROWS_MAX: usize = 60;
const OTHER: &str = "other";

/// What an attempt came to for a recipient.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Also: handed to the next host.
    Delivered,
    Deferred,
    /// Given up: refused, expired or cancelled.
    Bounced,
}

/// Recipients by outcome and reason.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outcomes {
    /// At most 60, that with most recipients first.
    pub rows: Vec<OutcomeRow>,
    /// Minutes that were counted: at most 60, less when a process has not run for so long.
    pub minutes: u32,
    /// Processes that did not answer so that it can be read: what they did is not counted.
    #[serde(default)]
    pub unheard: u32,
}

/// Recipients with one outcome and reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeRow {
    pub outcome: Outcome,
    /// The reply, without what differs from message to message; `other` for all that were not told
    /// apart.
    pub reason: String,
    /// Each attempt counts: who was deferred twice is counted twice.
    pub recipients: u64,
}

type Counts = HashMap<(Outcome, String), u64>;

impl Outcomes {
    fn of(counts: Counts, minutes: u32, unheard: u32) -> Self {
        let row = |((outcome, reason), recipients)| OutcomeRow { outcome, reason, recipients };
        let mut rows: Vec<OutcomeRow> = counts.into_iter().map(row).collect();
        rows.sort_unstable_by(|a, b| {
            let key = |row: &OutcomeRow| (Reverse(row.recipients), row.outcome);
            (key(a), &a.reason).cmp(&(key(b), &b.reason))
        });
        rows.truncate(ROWS_MAX);
        Self { rows, minutes, unheard }
    }

    /// What several processes counted, as one, when `unheard` others did not tell.
    pub fn sum(all: impl IntoIterator<Item = Self>, unheard: u32) -> Self {
        let (mut counts, mut minutes) = (Counts::new(), 0);
        for outcomes in all {
            minutes = minutes.max(outcomes.minutes);
            for OutcomeRow { outcome, reason, recipients } in outcomes.rows {
                *counts.entry((outcome, reason)).or_default() += recipients;
            }
        }
        Self::of(counts, minutes, unheard)
    }
}

/// Counts by minute; those of an hour ago are forgotten.
#[derive(Debug)]
pub(crate) struct Counter {
    since: i64,
    minutes: VecDeque<(i64, Counts)>,
}

impl Counter {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { since: minute(now), minutes: VecDeque::new() }
    }

    pub(crate) fn count(&mut self, settlement: &Settlement, now: Timestamp) {
        let now = minute(now);
        self.forget(now);
        if self.minutes.back().is_none_or(|(last, _)| *last < now) {
            self.minutes.push_back((now, Counts::new()));
        }
        let Some((_, counts)) = self.minutes.back_mut() else { return };
        for progress in &settlement.progress {
            let outcome = match progress.status {
                RecipientStatus::Pending => Outcome::Deferred,
                RecipientStatus::Delivered => Outcome::Delivered,
                RecipientStatus::Bounced => Outcome::Bounced,
            };
            let mut key = (outcome, reason(&progress.report.reply.to_string()));
            if counts.len() >= REASONS_MAX && !counts.contains_key(&key) {
                OTHER.clone_into(&mut key.1);
            }
            *counts.entry(key).or_default() += progress.recipients.len() as u64;
        }
    }

    pub(crate) fn outcomes(&mut self, now: Timestamp) -> Outcomes {
        let now = minute(now);
        self.forget(now);
        let mut counts = Counts::new();
        for (key, recipients) in self.minutes.iter().flat_map(|(_, counts)| counts) {
            *counts.entry(key.clone()).or_default() += recipients;
        }
        let minutes = (now - self.since + 1).clamp(1, MINUTES);
        Outcomes::of(counts, u32::try_from(minutes).unwrap_or_default(), 0)
    }

    fn forget(&mut self, now: i64) {
        while self.minutes.front().is_some_and(|(first, _)| first + MINUTES <= now) {
            self.minutes.pop_front();
        }
    }
}

fn minute(at: Timestamp) -> i64 {
    at.unix_ms().div_euclid(60_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mail_types::{EnhancedStatus, Reply, ReplyCode};
    use queue::{Disposition, Progress, Report};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

    fn settlement(status: RecipientStatus, text: &str, recipients: u32) -> Settlement {
        let reply = Reply::new(ReplyCode::new(250), EnhancedStatus::new(2, 0, 0), text);
        let report = Report { at: NOW, remote: None, reply };
        let progress = Progress { recipients: (0..recipients).collect(), status, report };
        Settlement {
            attempt: None,
            progress: vec![progress],
            disposition: Disposition::Done,
            follow_ups: vec![],
            delay_reported: false,
        }
    }

    #[test]
    fn an_hour_is_counted_and_then_forgotten() {
        let mut counter = Counter::new(NOW);
        counter.count(&settlement(RecipientStatus::Delivered, "queued as 4Fabc12345", 2), NOW);
        let later = NOW + Duration::from_secs(59 * 60);
        counter.count(&settlement(RecipientStatus::Delivered, "queued as 4Fxyz98765", 1), later);
        counter.count(&settlement(RecipientStatus::Pending, "wait", 1), later);
        let outcomes = counter.outcomes(later);
        assert_eq!(outcomes.minutes, 60);
        let row = |outcome, reason: &str, recipients| OutcomeRow {
            outcome,
            reason: reason.to_owned(),
            recipients,
        };
        let delivered = row(Outcome::Delivered, "250 2.0.0 queued as #", 3);
        let deferred = row(Outcome::Deferred, "250 2.0.0 wait", 1);
        assert_eq!(outcomes.rows, [delivered, deferred]);
        let twice = Outcomes::sum([outcomes.clone(), outcomes], 1);
        assert_eq!((twice.rows[0].recipients, twice.unheard), (6, 1));
        let outcomes = counter.outcomes(NOW + Duration::from_secs(60 * 60));
        assert_eq!(outcomes.rows[0].recipients, 1, "the first minute is forgotten");
    }

    #[test]
    fn reasons_are_bounded_and_no_recipient_is_left_out() {
        let mut counter = Counter::new(NOW);
        let word = |n: u32| char::from_u32('a' as u32 + n % 26).unwrap().to_string();
        for n in 0..300 {
            let text = word(n) + &word(n / 26);
            counter.count(&settlement(RecipientStatus::Bounced, &text, 1), NOW);
        }
        let (_, counts) = &counter.minutes[0];
        assert_eq!(counts.len(), REASONS_MAX + 1);
        assert_eq!(counts.values().sum::<u64>(), 300);
        let outcomes = counter.outcomes(NOW);
        assert_eq!((outcomes.rows.len(), &*outcomes.rows[0].reason), (ROWS_MAX, OTHER));
    }
}
