//! How patient we are, for all mail or for one domain.

use std::time::Duration;

use mail_types::{ReversePath, Timestamp};
use serde::{Deserialize, Serialize};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The schedule of attempts and how long a message is kept (RFC 5321 §4.5.4.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Seconds from each failed attempt to the next, in order.
    pub intervals_seconds: Vec<u64>,
    /// Seconds between attempts when `intervalsSeconds` is used up.
    pub repeat_seconds: u64,
    /// How far an interval may be off, so that messages that failed together do not come back
    /// together.
    pub jitter_percent: u8,
    /// When a message is given up, counted from its arrival.
    pub expire_seconds: u64,
    /// The same for messages from the null sender, which nobody waits for.
    pub bounce_expire_seconds: u64,
    /// When its sender hears that a message is delayed, counted from its arrival.
    pub delay_notice_seconds: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            intervals_seconds: [1, 5, 10, 20, 30, 60, 120].map(|minutes| minutes * MINUTE).to_vec(),
            repeat_seconds: 4 * HOUR,
            jitter_percent: 10,
            expire_seconds: 5 * DAY,
            bounce_expire_seconds: 2 * DAY,
            delay_notice_seconds: 4 * HOUR,
        }
    }
}

/// What of a policy is otherwise for some mail; the rest is as in the policy that it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicyChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervals_seconds: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounce_expire_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_notice_seconds: Option<u64>,
}

/// A policy that cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("an interval is zero: a failing destination would be tried without a pause")]
    ZeroInterval,
    #[error("jitterPercent is above 50")]
    Jitter,
    #[error("a message would expire before it is tried: an expiry is zero")]
    ZeroExpiry,
    #[error("a time is longer than a year")]
    TooLong,
}

impl PolicyChange {
    pub fn of(&self, policy: &Policy) -> Policy {
        let intervals = self.intervals_seconds.as_ref().unwrap_or(&policy.intervals_seconds);
        Policy {
            intervals_seconds: intervals.clone(),
            repeat_seconds: self.repeat_seconds.unwrap_or(policy.repeat_seconds),
            jitter_percent: self.jitter_percent.unwrap_or(policy.jitter_percent),
            expire_seconds: self.expire_seconds.unwrap_or(policy.expire_seconds),
            bounce_expire_seconds: self
                .bounce_expire_seconds
                .unwrap_or(policy.bounce_expire_seconds),
            delay_notice_seconds: self.delay_notice_seconds.unwrap_or(policy.delay_notice_seconds),
        }
    }
}

impl Policy {
    /// Refuses what would try without a pause, never try, or overflow.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let intervals = || self.intervals_seconds.iter().chain([&self.repeat_seconds]);
        let expiries = [self.expire_seconds, self.bounce_expire_seconds];
        let all = || intervals().chain(&expiries).chain([&self.delay_notice_seconds]);
        if intervals().any(|&seconds| seconds == 0) {
            return Err(PolicyError::ZeroInterval);
        }
        if self.jitter_percent > 50 {
            return Err(PolicyError::Jitter);
        }
        if expiries.contains(&0) {
            return Err(PolicyError::ZeroExpiry);
        }
        if all().any(|&seconds| seconds > 366 * DAY) {
            return Err(PolicyError::TooLong);
        }
        Ok(())
    }

    /// When a message that arrives at `arrival` is given up.
    pub fn expires(&self, reverse_path: &ReversePath, arrival: Timestamp) -> Timestamp {
        let seconds = match reverse_path {
            ReversePath::Null => self.bounce_expire_seconds,
            ReversePath::Mailbox(_) => self.expire_seconds,
        };
        arrival + Duration::from_secs(seconds)
    }

    /// The interval after `failures` failed attempts, before jitter.
    pub fn interval(&self, failures: u32) -> Duration {
        let place = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
        let seconds = self.intervals_seconds.get(place).unwrap_or(&self.repeat_seconds);
        Duration::from_secs(*seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_cannot_be_meant() {
        let with = |change: fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy.validate()
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|p| p.intervals_seconds.clear()), Ok(()));
        assert_eq!(with(|p| p.intervals_seconds[1] = 0), Err(PolicyError::ZeroInterval));
        assert_eq!(with(|p| p.repeat_seconds = 0), Err(PolicyError::ZeroInterval));
        assert_eq!(with(|p| p.jitter_percent = 51), Err(PolicyError::Jitter));
        assert_eq!(with(|p| p.bounce_expire_seconds = 0), Err(PolicyError::ZeroExpiry));
        assert_eq!(with(|p| p.expire_seconds = u64::MAX), Err(PolicyError::TooLong));
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let patient = Policy { expire_seconds: 14 * DAY, ..Policy::default() };
        let change: PolicyChange = serde_json::from_str(r#"{"repeatSeconds": 9}"#).unwrap();
        assert_eq!(change.of(&patient), Policy { repeat_seconds: 9, ..patient.clone() });
        assert_eq!(PolicyChange::default().of(&patient), patient);
        let all: PolicyChange =
            serde_json::from_value(serde_json::to_value(Policy::default()).unwrap()).unwrap();
        assert_eq!(all.of(&patient), Policy::default());
        assert!(serde_json::from_str::<PolicyChange>(r#"{"repeat": 9}"#).is_err());
    }

    #[test]
    fn reads_what_is_given_and_keeps_the_rest() {
        let policy: Policy = serde_json::from_str(r#"{"intervalsSeconds": [2]}"#).unwrap();
        assert_eq!(policy, Policy { intervals_seconds: vec![2], ..Policy::default() });
        assert!(serde_json::from_str::<Policy>(r#"{"intervals": [2]}"#).is_err());
    }
}
