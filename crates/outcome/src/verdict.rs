//! What became of a recipient in an attempt.

use mail_types::{EnhancedStatus, Reply, ReplyCode, Timestamp};
use queue::{Report, Wait};

/// An outcome and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The place in [`queue::Job::recipients`].
    pub recipient: u32,
    pub outcome: Outcome,
}

/// A result of delivery; a value, not an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Delivered { report: Report, delivery: Delivery },
    Deferred { report: Report, waiting_for: Wait },
    Bounced { report: Report },
}

/// Who answers for a delivered message from now on (RFC 3461 §5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// It is in its mailbox: we say "delivered" to who asked.
    Final,
    /// A next hop that offers DSN has it, and will say so itself.
    RelayedWithDsn,
    /// A next hop without DSN has it: we say "relayed" to who asked.
    RelayedWithoutDsn,
}

impl Outcome {
    pub fn report(&self) -> &Report {
        match self {
            Self::Delivered { report, .. }
            | Self::Deferred { report, .. }
            | Self::Bounced { report } => report,
        }
    }
}

/// What we say of a recipient whose time is over.
pub(crate) const EXPIRED: EnhancedStatus = EnhancedStatus::new(5, 4, 7);

/// What we say of a recipient that was never answered for, when its time is over.
pub(crate) fn expired_unheard(at: Timestamp) -> Report {
    let text = "delivery time expired before the next hop could be reached";
    Report { at, remote: None, reply: Reply::new(ReplyCode::new(554), EXPIRED, text) }
}

pub(crate) fn cancelled(at: Timestamp) -> Report {
    let status = EnhancedStatus::new(5, 3, 0);
    let text = "delivery was cancelled by an administrator";
    Report { at, remote: None, reply: Reply::new(ReplyCode::new(554), status, text) }
}
