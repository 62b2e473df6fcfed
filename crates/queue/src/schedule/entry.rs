//! What is kept of a job in memory.

use mail_types::{QueueId, Timestamp};

use crate::model::{JobId, Wait};

/// A job id in 18 octets whose order is that of [`JobId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobKey([u8; 18]);

impl From<JobId> for JobKey {
    fn from(id: JobId) -> Self {
        let mut key = [0; 18];
        key[..16].copy_from_slice(&id.message.to_bytes());
        key[16..].copy_from_slice(&id.index.to_be_bytes());
        Self(key)
    }
}

impl From<JobKey> for JobId {
    fn from(JobKey(key): JobKey) -> Self {
        let [message @ .., high, low] = key;
        Self { message: QueueId::from_bytes(message), index: u16::from_be_bytes([high, low]) }
    }
}

pub(super) struct Entry<T> {
    pub(super) key: JobKey,
    pub(super) wait: Wait,
    pub(super) hop: u32,
    pub(super) tenant: u32,
    /// Octets of the message.
    pub(super) size: u64,
    pub(super) next_attempt_ms: i64,
    pub(super) wake_by_ms: i64,
    /// The one timer of the job, or [`NEVER`].
    pub(super) timer_ms: i64,
    pub(super) state: State,
    pub(super) payload: T,
}

impl<T> Entry<T> {
    pub(super) fn arrival_ms(&self) -> i64 {
        JobId::from(self.key).message.arrival().unix_ms()
    }

    /// Large mail takes its tenant more turns: one for each 64 KiB, at most 16.
    pub(super) fn cost(&self) -> i32 {
        1 + i32::try_from(self.size / (64 * 1024)).unwrap_or(i32::MAX).min(15)
    }
}

/// The time of a timer that is not set.
pub(super) const NEVER: i64 = i64::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// For its next attempt; also in the hop's `waiting` with [`Wait::Hop`].
    Waiting,
    /// In the hop's `due`.
    Due,
    /// In the hop's `express`.
    Express(Why),
    Active(Active),
    Held,
    Quarantined,
}

/// Why a job is leased even while its next hop is down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    RetryNow,
    Deadline,
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) token: u64,
    /// `i64::MAX` while pinned.
    pub(super) deadline_ms: i64,
    pub(super) back: Back,
    pub(super) holder: Holder,
}

/// What becomes of a job when its lease ends without a settlement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Back {
    /// Due at once.
    Due,
    /// Held: an operator asked for it meanwhile.
    Held,
    /// Leased again as [`crate::LeaseReason::Cancelled`].
    Cancelled,
    /// Gone: an operator cancelled it without a word.
    Gone,
}

/// Whether somebody still has the lease in hand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Present,
    /// Gave it back while it was pinned.
    Left,
}

/// Where a job stands when it is not leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Due now.
    Ready {
        wake_by: Timestamp,
    },
    Deferred {
        until: Timestamp,
        wake_by: Timestamp,
        wait: Wait,
    },
    /// Due now, even while its next hop is down.
    Urgent {
        wake_by: Timestamp,
    },
    /// To be leased as [`crate::LeaseReason::Cancelled`].
    Cancelled,
    Held,
    Quarantined,
}
