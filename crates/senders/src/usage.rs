//! What an account has sent, and whether there is room for more.

use std::time::Duration;

use mail_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits::{Limits, Period};
use crate::pool::Share;
use crate::window::Window;

/// No share is more than this part of what is left: near a limit, processes do not hold back from
/// each other what they do not need.
const PARTS: u32 = 16;

/// Recipients of the last hour and of the last day.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    hour: Window,
    day: Window,
}

/// A limit that is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exceeded {
    pub limit: u32,
    pub period: Period,
    /// Until there is room for one more.
    pub wait: Duration,
}

impl Usage {
    /// Counts recipients, as many as `wanted` but at least one and not most of what is left.
    /// Returns how many.
    ///
    /// # Errors
    /// The limit that has no room, of two the one that takes longer. Nothing was counted.
    pub fn grant(&mut self, limits: &Limits, wanted: u32, now: Timestamp) -> Result<u32, Exceeded> {
        self.forget(now);
        let bounds = [
            (Period::Hour, &self.hour, limits.recipients_per_hour),
            (Period::Day, &self.day, limits.recipients_per_day),
        ];
        let (mut room, mut exceeded): (u32, Option<Exceeded>) = (u32::MAX, None);
        for (period, window, limit) in bounds {
            let Some(limit) = limit else { continue };
            let left = limit.saturating_sub(window.used());
            room = room.min(left);
            if left == 0 {
                let this = Exceeded { limit, period, wait: window.wait(period, limit, now) };
                exceeded = exceeded.filter(|other| other.wait > this.wait).or(Some(this));
            }
        }
        if let Some(exceeded) = exceeded {
            return Err(exceeded);
        }
        let granted = wanted.clamp(1, (room / PARTS).max(1));
        self.hour.add(Period::Hour, now, granted);
        self.day.add(Period::Day, now, granted);
        Ok(granted)
    }

    /// What was granted and not used does not count.
    pub fn take_back(&mut self, share: Share) {
        self.hour.take_back(Period::Hour, share.at, share.count);
        self.day.take_back(Period::Day, share.at, share.count);
    }

    /// Whether nothing counts any more.
    pub fn is_over(&mut self, now: Timestamp) -> bool {
        self.forget(now);
        self.hour.is_empty() && self.day.is_empty()
    }

    fn forget(&mut self, now: Timestamp) {
        self.hour.forget(Period::Hour, now);
        self.day.forget(Period::Day, now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_795_388_895_042;
    const HOUR: i64 = 3_600_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(START + ms)
    }

    fn limits(hour: u32, day: u32) -> Limits {
        Limits { recipients_per_hour: Some(hour), recipients_per_day: Some(day) }
    }

    /// Counts one by one until there is no room; returns how many there were.
    fn fill(usage: &mut Usage, limits: &Limits, now: Timestamp) -> (u32, Exceeded) {
        let mut count = 0;
        loop {
            match usage.grant(limits, 1, now) {
                Ok(granted) => count += granted,
                Err(exceeded) => return (count, exceeded),
            }
        }
    }

    #[test]
    fn an_hour_and_a_day() {
        let (mut usage, limits) = (Usage::default(), limits(10, 25));
        let (count, exceeded) = fill(&mut usage, &limits, at(0));
        assert_eq!((count, exceeded.limit, exceeded.period), (10, 10, Period::Hour));
        assert!((3600..3901).contains(&exceeded.wait.as_secs()), "{exceeded:?}");
        assert_eq!(fill(&mut usage, &limits, at(HOUR - 1)).0, 0);
        let again = at(i64::try_from(exceeded.wait.as_millis()).unwrap());
        assert_eq!(fill(&mut usage, &limits, again).0, 10);
        let (count, exceeded) = fill(&mut usage, &limits, at(3 * HOUR));
        assert_eq!((count, exceeded.limit, exceeded.period), (5, 25, Period::Day));
        assert!((21 * 3600..23 * 3600).contains(&exceeded.wait.as_secs()), "{exceeded:?}");
        assert!(!usage.clone().is_over(at(25 * HOUR)));
        assert!(usage.is_over(at(30 * HOUR)));
    }

    #[test]
    fn what_is_not_said_is_no_limit() {
        let hourly = Limits { recipients_per_hour: Some(2), recipients_per_day: None };
        assert_eq!(fill(&mut Usage::default(), &hourly, at(0)).0, 2);
        let mut usage = Usage::default();
        assert!((0..5000).all(|_| usage.grant(&Limits::default(), 1, at(0)).is_ok()));
        let both = hourly.or(limits(9, 9));
        assert_eq!(both, limits(2, 9));
    }

    #[test]
    fn a_clock_that_was_wrong_is_forgotten() {
        let (mut usage, limits) = (Usage::default(), limits(3, 3));
        fill(&mut usage, &limits, at(1000 * HOUR));
        assert_eq!(fill(&mut usage, &limits, at(0)).0, 3);
        // A little ahead it counts: clocks of processes differ.
        let mut usage = Usage::default();
        fill(&mut usage, &limits, at(400_000));
        assert_eq!(fill(&mut usage, &limits, at(0)).0, 0);
    }

    #[test]
    fn the_stored_form_is_small() {
        let (mut usage, now) = (Usage::default(), at(0));
        usage.grant(&limits(100, 100), 5, now).unwrap();
        let text = serde_json::to_string(&usage).unwrap();
        assert_eq!(text, r#"{"hour":[[5984629,5]],"day":[[498719,5]]}"#);
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), usage);
        // Sent at every moment of a day.
        for n in 0..288 {
            let _ = usage.grant(&Limits::default(), 1_000_000, at(n * 300_000));
        }
        assert!(serde_json::to_string(&usage).unwrap().len() < 1024);
    }

    proptest! {
        /// However it is asked and given back: in no hour and in no day more than the limit.
        #[test]
        fn no_stretch_has_more(
            hour in 1u32..40,
            day in 1u32..80,
            asked in proptest::collection::vec((0i64..1_200_000, 1u32..30, any::<bool>()), 1..150),
        ) {
            let (mut usage, limits, mut now) = (Usage::default(), limits(hour, day), 0);
            let mut sent: Vec<(i64, u32)> = Vec::new();
            for (pause, wanted, is_used) in asked {
                now += pause;
                let Ok(count) = usage.grant(&limits, wanted, at(now)) else { continue };
                prop_assert!((1..=wanted).contains(&count));
                if is_used {
                    sent.push((now, count));
                } else {
                    usage.take_back(Share { at: at(now), count });
                }
            }
            for (first, _) in &sent {
                let within = |span: i64| -> u32 {
                    let of = sent.iter().filter(|(at, _)| (*first..*first + span).contains(at));
                    of.map(|(_, count)| count).sum()
                };
                prop_assert!(within(HOUR) <= hour, "{} an hour", within(HOUR));
                prop_assert!(within(24 * HOUR) <= day, "{} a day", within(24 * HOUR));
            }
        }

        /// Who waits as long as he is told finds room, and a moment before he does not.
        #[test]
        fn the_wait_is_true(
            hour in 1u32..20,
            asked in proptest::collection::vec((0i64..600_000, 1u32..30), 1..60),
        ) {
            let limits = Limits { recipients_per_hour: Some(hour), recipients_per_day: None };
            let (mut usage, mut now) = (Usage::default(), 0);
            for (pause, wanted) in asked {
                now += pause;
                let Err(exceeded) = usage.grant(&limits, wanted, at(now)) else { continue };
                let wait = i64::try_from(exceeded.wait.as_millis()).unwrap();
                prop_assert!(usage.clone().grant(&limits, 1, at(now + wait)).is_ok());
                prop_assert!(usage.clone().grant(&limits, 1, at(now + wait - 1)).is_err());
            }
        }
    }
}
