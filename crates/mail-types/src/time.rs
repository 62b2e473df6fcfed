//! Points in time as values; this crate never reads a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A point in time, in milliseconds since 1970-01-01 00:00 UTC.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_unix_ms(ms: i64) -> Self {
        Self(ms)
    }

    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// The time that has passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX)
    }

    /// The date-time of RFC 5322 §3.3, in UTC: `Sun, 22 Nov 2026 23:08:15 +0000`.
    pub fn to_rfc5322(self) -> String {
        self.to_jiff().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
    }

    /// The date-time of RFC 3339 §5.6, in UTC with milliseconds.
    pub fn to_rfc3339(self) -> String {
        format!("{:.3}", self.to_jiff())
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let time = Timestamp::from_unix_ms(1_795_388_895_042);
        assert_eq!(time.to_rfc5322(), "Sun, 22 Nov 2026 23:08:15 +0000");
        assert_eq!(time.to_rfc3339(), "2026-11-22T23:08:15.042Z");
    }

    #[test]
    fn arithmetic_saturates() {
        let time = Timestamp::from_unix_ms(1_000);
        assert_eq!((time + Duration::from_secs(1)).since(time), Duration::from_secs(1));
        assert_eq!(time.since(time + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(time + Duration::MAX, Timestamp::from_unix_ms(i64::MAX));
    }
}
