//! How much may be sent, and by whom.

use std::fmt;
use std::sync::Arc;

use mail_types::Timestamp;
use serde::{Deserialize, Serialize};

/// How many recipients may be sent to; what is not said is said elsewhere, or is without a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// In any 60 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients_per_hour: Option<u32>,
    /// In any 24 hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients_per_day: Option<u32>,
}

impl Limits {
    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and what `others` say where they say nothing.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            recipients_per_hour: self.recipients_per_hour.or(others.recipients_per_hour),
            recipients_per_day: self.recipients_per_day.or(others.recipients_per_day),
        }
    }
}

/// What a limit is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Period {
    Hour,
    Day,
}

impl Period {
    /// Steps of a period: what was counted in one leaves together.
    pub(crate) fn steps(self) -> u32 {
        match self {
            Self::Hour => 12,
            Self::Day => 24,
        }
    }

    pub(crate) fn step_seconds(self) -> u32 {
        match self {
            Self::Hour => 300,
            Self::Day => 3600,
        }
    }

    /// The step that a time is in.
    pub(crate) fn step(self, at: Timestamp) -> u32 {
        let seconds = at.unix_ms().max(0) / 1000;
        u32::try_from(seconds / i64::from(self.step_seconds())).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hour => "hour",
            Self::Day => "day",
        })
    }
}

/// Whose recipients count together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    Mailbox,
    /// All mailboxes of a domain.
    Domain,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mailbox => "mailbox",
            Self::Domain => "domain",
        })
    }
}

/// A mailbox by its address, or a domain by its name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Account {
    pub scope: Scope,
    pub name: Arc<str>,
}
