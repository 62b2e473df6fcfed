//! The replies that policy, limits and want of room give, in one place.

use mail_types::{EnhancedStatus, Reply, ReplyCode, Severity};
use queue::AcceptError;
use senders::{Exceeded, Period, Scope};

/// A reply without its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Canned {
    code: ReplyCode,
    status: EnhancedStatus,
    text: &'static str,
}

impl Canned {
    const fn new(code: u16, (class, subject, detail): (u8, u16, u16), text: &'static str) -> Self {
        let status = EnhancedStatus::new(class, subject, detail);
        Self { code: ReplyCode::new(code), status, text }
    }

    pub(crate) fn is_transient(self) -> bool {
        self.code.severity() == Severity::Transient
    }

    pub(crate) fn reply(self) -> Reply {
        Reply::new(self.code, self.status, self.text)
    }
}

pub(crate) const TOO_MANY_CONNECTIONS: Canned =
    Canned::new(421, (4, 7, 0), "Too many connections, try again later");
pub(crate) const TOO_MANY_FROM_CLIENT: Canned =
    Canned::new(421, (4, 7, 0), "Too many connections from your address");
pub(crate) const TIMEOUT: Canned = Canned::new(421, (4, 4, 2), "Timeout, closing");
pub(crate) const STOPPING: Canned = Canned::new(421, (4, 3, 2), "Server is stopping, try again");

pub(crate) const TOO_MANY_FAILURES: Canned =
    Canned::new(421, (4, 7, 0), "Too many authentication failures from your address");
pub(crate) const AUTH_BUSY: Canned =
    Canned::new(454, (4, 7, 0), "Authentication is busy, try again");
pub(crate) const AUTH_UNAVAILABLE: Canned =
    Canned::new(454, (4, 7, 0), "Authentication is not possible now");
pub(crate) const BAD_CREDENTIALS: Canned =
    Canned::new(535, (5, 7, 8), "Authentication credentials invalid");

pub(crate) const BAD_RESPONSE: Canned = Canned::new(501, (5, 5, 2), "Bad authentication response");

pub(crate) const LOGIN_ENDED: Canned =
    Canned::new(421, (4, 7, 0), "Your login is no longer valid, log in again");

pub(crate) const LOGIN_UNKNOWN: Canned =
    Canned::new(451, (4, 7, 0), "Your login cannot be checked now, try again");

pub(crate) const NO_TABLE: Canned =
    Canned::new(451, (4, 3, 0), "Domains are not known yet, try again");
pub(crate) const NOT_CERTAIN: Canned =
    Canned::new(451, (4, 3, 0), "Recipient is not known yet, try again");
pub(crate) const NOT_YOUR_ADDRESS: Canned =
    Canned::new(553, (5, 7, 1), "Sender address is not yours to use");
pub(crate) const NOT_YOUR_FROM: Canned =
    Canned::new(550, (5, 7, 1), "From address is not yours to use");
pub(crate) const BAD_FROM: Canned =
    Canned::new(550, (5, 6, 0), "From must be one field with addresses that can be read");
pub(crate) const NO_SUCH_USER: Canned = Canned::new(550, (5, 1, 1), "No such user here");
pub(crate) const MAILBOX_FULL: Canned =
    Canned::new(452, (4, 2, 2), "Mailbox is full, try again later");
pub(crate) const MAILBOX_FULL_FOR_GOOD: Canned = Canned::new(552, (5, 2, 2), "Mailbox is full");
/// Of a gateway domain.
pub(crate) const RECIPIENT_UNCLEAR: Canned =
    Canned::new(450, (4, 1, 1), "Recipient cannot be verified now, try again");
pub(crate) const SERVER_UNREACHABLE: Canned =
    Canned::new(450, (4, 4, 1), "Recipient's server cannot be reached now, try again");
pub(crate) const NO_RELAY: Canned = Canned::new(550, (5, 7, 1), "Relaying is not permitted");

pub(crate) const NO_MEMORY: Canned =
    Canned::new(452, (4, 3, 1), "Too much mail at the moment, try again later");
pub(crate) const QUEUE_FULL: Canned = Canned::new(452, (4, 3, 1), "Queue is full, try again later");
pub(crate) const TENANT_FULL: Canned =
    Canned::new(452, (4, 2, 2), "Share of the queue is full, try again later");
pub(crate) const CANNOT_STORE: Canned =
    Canned::new(451, (4, 3, 0), "Mail cannot be stored now, try again later");
pub(crate) const HEADER_TOO_LARGE: Canned =
    Canned::new(554, (5, 6, 0), "Header fields are larger than this server accepts");
pub(crate) const TOO_LARGE_FOR_RECIPIENT: Canned =
    Canned::new(552, (5, 3, 4), "Message is larger than a recipient accepts");
pub(crate) const LOOP: Canned = Canned::new(554, (5, 4, 6), "Too many hops, mail is looping");

pub(crate) const FORWARD_LOOP: Canned =
    Canned::new(554, (5, 4, 6), "A recipient has forwarded this message before, mail is looping");

pub(crate) const SENDING_UNKNOWN: Canned =
    Canned::new(451, (4, 3, 0), "What you have sent is not known now, try again later");

/// What the client hears when a limit of what it may send is reached.
pub(crate) fn sent_enough(scope: Scope, exceeded: &Exceeded) -> Reply {
    let Exceeded { limit, period, wait } = exceeded;
    let who = match scope {
        Scope::Mailbox => "You send",
        Scope::Domain => "Your domain sends",
    };
    let per = match period {
        Period::Hour => "an hour",
        Period::Day => "a day",
    };
    let minutes = wait.as_secs().div_ceil(60).max(1);
    let text = format!("{who} to {limit} recipients {per} at most; try again in {minutes} minutes");
    Reply::new(ReplyCode::new(450), EnhancedStatus::new(4, 7, 1), text)
}

/// What the client hears when the store does not take its mail.
pub(crate) fn of_store(error: &AcceptError) -> Canned {
    match error {
        AcceptError::Full => QUEUE_FULL,
        AcceptError::TenantQuota => TENANT_FULL,
        AcceptError::Unavailable(_) | AcceptError::Unknown(_) => CANNOT_STORE,
    }
}
