//! The one place that reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use mail_types::Timestamp;

/// Now, in whole milliseconds. A clock before 1970 counts as 1970.
#[allow(clippy::disallowed_methods)] // this is the place that the ban points to
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
