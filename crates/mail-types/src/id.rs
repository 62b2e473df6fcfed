//! Identifiers that appear in logs, replies and records.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::time::Timestamp;

/// The id of a queued message: a ULID, sortable by arrival, 26 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "01JD5ZQ9W3T8M1V5K7N2B4C6XR")]
pub struct QueueId(ulid::Ulid);

/// A text that is no queue id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a queue id: 26 characters such as 01JD5ZQ9W3T8M1V5K7N2B4C6XR")]
pub struct QueueIdError;

impl QueueId {
    /// An id from the time of arrival and 80 random bits (the upper 48 of `random` are ignored).
    pub fn new(arrival: Timestamp, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(arrival.unix_ms().max(0) as u64, random))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(ulid::Ulid::from_bytes(bytes))
    }

    /// When the message arrived, in whole milliseconds.
    pub fn arrival(self) -> Timestamp {
        Timestamp::from_unix_ms(i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for QueueId {
    type Err = QueueIdError;

    fn from_str(text: &str) -> Result<Self, QueueIdError> {
        ulid::Ulid::from_string(text).map(Self).map_err(|_| QueueIdError)
    }
}

/// Whose mail it is: the unit of quotas, fairness and metrics.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct TenantId(Box<str>);

impl TenantId {
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
