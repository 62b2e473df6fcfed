//! The decision after an attempt, or at a deadline.

use std::time::Duration;

use mail_types::Timestamp;
use rand::{Rng, RngExt};

use crate::policy::Policy;

/// What has happened to the recipients that are still pending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    pub arrival: Timestamp,
    /// When they are given up.
    pub expires: Timestamp,
    /// Attempts that failed, the present one included.
    pub failures: u32,
    /// Whether a report of delay is still owed when its time comes.
    pub delay_notice_owed: bool,
}

/// What to do with the recipients that are still pending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Their time is over.
    Expired,
    Retry {
        at: Timestamp,
        /// The earlier of the report of delay and the expiry: when something has to be done even
        /// if nothing can be tried. Always later than now.
        wake_by: Timestamp,
        /// The report of delay is due now.
        report_delay: bool,
    },
}

/// Decides. The last attempt of a message falls on its expiry.
pub fn decide(policy: &Policy, history: &History, now: Timestamp, rng: &mut impl Rng) -> Decision {
    if now >= history.expires {
        return Decision::Expired;
    }
    let notice_at = history.arrival + Duration::from_secs(policy.delay_notice_seconds);
    let report_delay = history.delay_notice_owed && now >= notice_at;
    let notice_ahead = history.delay_notice_owed && !report_delay;
    let at = now + jittered(policy.interval(history.failures), policy.jitter_percent, rng);
    Decision::Retry {
        at: at.min(history.expires),
        wake_by: if notice_ahead { history.expires.min(notice_at) } else { history.expires },
        report_delay,
    }
}

/// `interval` give or take `percent`, in whole milliseconds, at least one.
fn jittered(interval: Duration, percent: u8, rng: &mut impl Rng) -> Duration {
    let spread_ms = (interval * u32::from(percent) / 100).as_millis() as u64;
    let offset_ms = rng.random_range(0..=spread_ms * 2);
    let least = interval.saturating_sub(Duration::from_millis(spread_ms));
    (least + Duration::from_millis(offset_ms)).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const HOUR: Duration = Duration::from_secs(3600);

    fn start() -> Timestamp {
        Timestamp::from_unix_ms(1_795_388_895_042)
    }

    fn history(failures: u32) -> History {
        History {
            arrival: start(),
            expires: start() + HOUR * 120,
            failures,
            delay_notice_owed: true,
        }
    }

    fn without_jitter() -> Policy {
        Policy { jitter_percent: 0, ..Policy::default() }
    }

    #[test]
    fn the_schedule_of_the_design() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (failures, minutes) in
            [(1, 1), (2, 5), (3, 10), (4, 20), (5, 30), (6, 60), (7, 120), (8, 240), (99, 240)]
        {
            let decision = decide(&without_jitter(), &history(failures), start(), &mut rng);
            let at = start() + Duration::from_secs(minutes * 60);
            let wake_by = start() + HOUR * 4;
            assert_eq!(
                decision,
                Decision::Retry { at, wake_by, report_delay: false },
                "{failures}"
            );
        }
    }

    #[test]
    fn notice_once_then_expiry() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut at_time = |history: &History, hours: u32| {
            decide(&without_jitter(), history, start() + HOUR * hours, &mut rng)
        };
        let owed = history(8);
        let told = History { delay_notice_owed: false, ..owed };
        let expires = owed.expires;
        let retry = |hours, report_delay| Decision::Retry {
            at: start() + HOUR * hours,
            wake_by: expires,
            report_delay,
        };
        assert_eq!(at_time(&owed, 4), retry(8, true));
        assert_eq!(at_time(&told, 4), retry(8, false));
        assert_eq!(at_time(&told, 118), retry(120, false), "the last attempt is at the expiry");
        assert_eq!(at_time(&told, 120), Decision::Expired);
        assert_eq!(at_time(&owed, 500), Decision::Expired);
    }

    proptest! {
        #[test]
        fn always_forward_and_within_bounds(
            failures in 0u32..200,
            age_ms in 0i64..500_000_000,
            seed in any::<u64>(),
            delay_notice_owed in any::<bool>(),
            jitter_percent in 0u8..=50,
        ) {
            let policy = Policy { jitter_percent, ..Policy::default() };
            let history = History { delay_notice_owed, ..history(failures) };
            let now = Timestamp::from_unix_ms(start().unix_ms() + age_ms);
            match decide(&policy, &history, now, &mut SmallRng::seed_from_u64(seed)) {
                Decision::Expired => prop_assert!(now >= history.expires),
                Decision::Retry { at, wake_by, report_delay } => {
                    prop_assert!(now < at && at <= history.expires);
                    prop_assert!(now < wake_by && wake_by <= history.expires);
                    prop_assert!(delay_notice_owed || !report_delay);
                    let interval = policy.interval(failures);
                    let percent = u32::from(jitter_percent);
                    prop_assert!(at.since(now) <= interval * (100 + percent) / 100);
                    prop_assert!(at == history.expires
                        || at.since(now) >= interval * (100 - percent) / 100);
                }
            }
        }
    }
}
