//! What all processes count together.

use async_trait::async_trait;
use mail_types::Timestamp;

use crate::limits::{Account, Limits, Period};
use crate::usage::{Exceeded, Usage};

/// Recipients that were counted and may be used, or were not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// When they were counted.
    pub at: Timestamp,
    pub count: u32,
}

impl Share {
    /// Whether a time is in the step in which it was counted: used later, it would leave too early.
    pub(crate) fn is_good(&self, now: Timestamp) -> bool {
        Period::Hour.step(self.at) == Period::Hour.step(now)
    }
}

/// What a process asks for an account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    pub limits: Limits,
    /// A pool that many processes share gives this much, if it can; one of a single process one
    /// recipient at a time.
    pub wanted: u32,
    /// What was not used.
    pub back: Vec<Share>,
}

impl Ask {
    /// Takes back what was not used and counts what is wanted. Returns how much.
    ///
    /// # Errors
    /// As of [`Usage::grant`].
    pub fn of(&self, usage: &mut Usage, now: Timestamp) -> Result<u32, Exceeded> {
        self.back.iter().for_each(|share| usage.take_back(*share));
        usage.grant(&self.limits, self.wanted, now)
    }
}

/// Where counts are kept.
#[async_trait]
pub trait Pool: Send + Sync {
    /// Counts recipients before they are used. Returns how many: at least one.
    ///
    /// # Errors
    /// Nothing was counted or taken back that is told here.
    async fn lease(&self, account: &Account, ask: &Ask, now: Timestamp) -> Result<u32, LeaseError>;
}

/// Why there is no share.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("{} recipients a {} are used", .0.limit, .0.period)]
    Exceeded(Exceeded),
    /// It cannot be told at the moment.
    #[error("{0}")]
    Unknown(String),
}

impl From<Exceeded> for LeaseError {
    fn from(exceeded: Exceeded) -> Self {
        Self::Exceeded(exceeded)
    }
}
