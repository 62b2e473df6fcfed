//! Why mail could not be handed over, and what that means for its recipients.
//!
//! The one table from errors to outcomes. Three kinds are kept apart: the destination refuses or
//! does not exist (bounce), it cannot be reached or is not well (defer, wait for the hop), we are
//! not well (defer, never a bounce).

use std::io;

use mail_types::{EnhancedStatus, Reply, ReplyCode, Timestamp};
use outcome::Outcome;
use queue::{Report, Wait};
use smtp::client::{RecipientResult, SessionError, Step};

/// Why no session with a destination could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HopFailure {
    /// NXDOMAIN.
    #[error("domain {0} does not exist")]
    NoDomain(String),
    /// The names exist, and none has an address.
    #[error("no mail host of {0} has an address")]
    NoAddress(String),
    /// RFC 7505.
    #[error("domain {0} does not accept mail (null MX)")]
    NullMx(String),
    /// RFC 5321 §5.1: only hosts that are less preferred than we are would be left.
    #[error("mail for {0} loops back to this host")]
    Loop(String),
    #[error("address literal {0} is of a kind that is not understood")]
    Literal(String),
    /// All its addresses are ones that no foreign domain has any business pointing at.
    #[error("mail hosts of {0} have private addresses only")]
    PrivateAddress(String),
    #[error("DNS lookup of {name} failed: {cause}")]
    Dns { name: String, cause: String },
    #[error("connect to {relay}: {cause}")]
    Connect { relay: String, cause: io::Error },
    #[error("connect to {relay} took too long")]
    ConnectTimedOut { relay: String },
    #[error("{error}")]
    Session { host: String, error: SessionError },
    #[error("TLS is required, but {relay} does not offer it")]
    TlsNotOffered { relay: String },
    #[error("TLS is required, but {relay}: {cause}")]
    TlsFailed { relay: String, cause: String },
    #[error("{host} offers no AUTH mechanism that is known here")]
    AuthNotOffered { host: String },
    #[error("authentication refused: {reply}")]
    AuthRefused { host: String, reply: Reply },
}

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Blame {
    /// There is nothing to reach.
    Permanent,
    /// The destination, or the network between.
    Hop,
    /// We: other destinations may be as unreachable.
    Us,
}

impl HopFailure {
    pub(crate) fn blame(&self) -> Blame {
        match self {
            Self::NoDomain(_)
            | Self::NoAddress(_)
            | Self::NullMx(_)
            | Self::Loop(_)
            | Self::Literal(_)
            | Self::PrivateAddress(_) => Blame::Permanent,
            Self::Connect { cause, .. } if is_local(cause) => Blame::Us,
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::ConnectTimedOut { .. }
            | Self::Session { .. }
            | Self::TlsNotOffered { .. }
            | Self::TlsFailed { .. }
            | Self::AuthNotOffered { .. }
            | Self::AuthRefused { .. } => Blame::Hop,
        }
    }

    pub(crate) fn outcome(&self, at: Timestamp) -> Outcome {
        let report = self.report(at);
        match self.blame() {
            Blame::Permanent => Outcome::Bounced { report },
            Blame::Hop => Outcome::Deferred { report, waiting_for: Wait::Hop },
            Blame::Us => Outcome::Deferred { report, waiting_for: Wait::Time },
        }
    }

    fn report(&self, at: Timestamp) -> Report {
        let ours = |code, status| Report { at, remote: None, reply: reply(code, status, self) };
        match self {
            Self::NoDomain(_) | Self::Literal(_) => ours(550, EnhancedStatus::new(5, 1, 2)),
            Self::NoAddress(_) | Self::PrivateAddress(_) => ours(550, EnhancedStatus::new(5, 4, 4)),
            Self::NullMx(_) => ours(556, EnhancedStatus::new(5, 1, 10)),
            Self::Loop(_) => ours(554, EnhancedStatus::new(5, 4, 6)),
            Self::Dns { .. } => ours(451, EnhancedStatus::new(4, 4, 3)),
            Self::Connect { .. } | Self::ConnectTimedOut { .. } => {
                ours(451, EnhancedStatus::new(4, 4, 1))
            }
            Self::Session { host, error } => session_report(host, error, at),
            Self::TlsNotOffered { .. } => ours(451, EnhancedStatus::new(4, 7, 4)),
            Self::TlsFailed { .. } => ours(451, EnhancedStatus::new(4, 7, 5)),
            Self::AuthNotOffered { .. } => ours(451, EnhancedStatus::new(4, 7, 9)),
            Self::AuthRefused { host, reply } => {
                Report { at, remote: Some(host.as_str().into()), reply: as_transient(reply) }
            }
        }
    }
}

/// Whether a failure to connect is the doing of this machine.
fn is_local(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, OutOfMemory, PermissionDenied};
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let kind =
        matches!(error.kind(), AddrInUse | AddrNotAvailable | OutOfMemory | PermissionDenied);
    kind || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// Why a message was not offered, or not in whole, although there was a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageFailure {
    /// RFC 6531 §3.2.
    #[error("{0} does not accept internationalised addresses or headers (SMTPUTF8)")]
    NeedsSmtputf8(String),
    /// RFC 1870 §6.1.
    #[error("the message has {size} octets, more than {host} accepts")]
    TooLarge { host: String, size: u64 },
    /// The queue cannot read the content now.
    #[error("the message cannot be read from the queue")]
    ContentUnavailable,
}

impl MessageFailure {
    pub(crate) fn outcome(&self, at: Timestamp) -> Outcome {
        let ours = |code, status| Report { at, remote: None, reply: reply(code, status, self) };
        match self {
            Self::NeedsSmtputf8(_) => {
                Outcome::Bounced { report: ours(550, EnhancedStatus::new(5, 6, 7)) }
            }
            Self::TooLarge { .. } => {
                Outcome::Bounced { report: ours(552, EnhancedStatus::new(5, 3, 4)) }
            }
            Self::ContentUnavailable => Outcome::Deferred {
                report: ours(451, EnhancedStatus::new(4, 3, 0)),
                waiting_for: Wait::Time,
            },
        }
    }
}

/// What a reply about a recipient means; `None` when it is to be tried again at once, in the next
/// transaction. `accepted`: how many recipients of the transaction were accepted.
pub(crate) fn recipient_outcome(
    host: &str,
    result: RecipientResult,
    accepted: usize,
    at: Timestamp,
    delivery: outcome::Delivery,
) -> Option<Outcome> {
    let report = |reply| Report { at, remote: Some(host.into()), reply };
    match result {
        RecipientResult::Unanswered => None,
        RecipientResult::Accepted(reply) => {
            Some(Outcome::Delivered { report: report(reply), delivery })
        }
        RecipientResult::Refused { step, reply } if too_many_recipients(step, &reply) => {
            let deferred = || deferred(report(as_transient(&reply)));
            (accepted == 0).then(deferred)
        }
        RecipientResult::Refused { step, reply }
            if is_about_us(step, &reply) || knows_no_bdat(step, &reply) =>
        {
            Some(deferred(report(as_transient(&reply))))
        }
        RecipientResult::Refused { reply, .. } if reply.is_permanent() => {
            Some(Outcome::Bounced { report: report(reply) })
        }
        RecipientResult::Refused { reply, .. } => Some(deferred(report(reply))),
    }
}

/// What the end of a session means for recipients that it left unanswered.
pub(crate) fn unanswered_outcome(host: &str, error: &SessionError, at: Timestamp) -> Outcome {
    deferred(session_report(host, error, at))
}

fn deferred(report: Report) -> Outcome {
    Outcome::Deferred { report, waiting_for: Wait::Time }
}

/// `452`, or `552` of old servers, without a detail that says otherwise
/// (RFC 5321 §4.5.3.1.10).
fn too_many_recipients(step: Step, reply: &Reply) -> bool {
    let code = matches!(reply.code.value(), 452 | 552);
    let detail = reply.status.is_none_or(|status| (status.subject(), status.detail()) == (5, 3));
    step == Step::Rcpt && code && detail
}

/// Refusals that our configuration causes: no TLS, no or wrong credentials (RFC 4954 §6).
fn is_about_us(step: Step, reply: &Reply) -> bool {
    step == Step::Mail && matches!(reply.code.value(), 530 | 534 | 535 | 538)
}

/// BDAT was offered and is not known, by what stands before the host perhaps. The next attempt
/// does without.
fn knows_no_bdat(step: Step, reply: &Reply) -> bool {
    step == Step::Bdat && matches!(reply.code.value(), 500..=504)
}

/// A peer's permanent reply to something that is not the message's fault: the text stays, the
/// class does not.
fn as_transient(reply: &Reply) -> Reply {
    let status = reply.status_or_general().with_class(4);
    Reply::new(ReplyCode::new(451), status, format!("{} {}", reply.code, reply.text))
}

fn session_report(host: &str, error: &SessionError, at: Timestamp) -> Report {
    let said = |reply: &Reply| {
        let reply = if reply.is_transient() { reply.clone() } else { as_transient(reply) };
        Report { at, remote: Some(host.into()), reply }
    };
    let status = match error {
        SessionError::Closing { reply, .. } | SessionError::Refused { reply, .. } => {
            return said(reply);
        }
        SessionError::Protocol { .. } => EnhancedStatus::new(4, 5, 0),
        SessionError::Disconnected(_) | SessionError::TimedOut(_) => EnhancedStatus::new(4, 4, 2),
    };
    let twice = match error.step() {
        Step::FinalDot | Step::Bdat => "; the message may be delivered twice",
        Step::Greeting | Step::Hello | Step::Lhlo | Step::StartTls | Step::Auth => "",
        Step::Idle | Step::Reset | Step::Mail | Step::Rcpt | Step::Data => "",
        Step::Content | Step::Quit => "",
    };
    let text = format!("{host}: {error}{twice}");
    Report { at, remote: None, reply: Reply::new(ReplyCode::new(451), status, text) }
}

fn reply(code: u16, status: EnhancedStatus, what: &impl ToString) -> Reply {
    // Every caller writes a code between 451 and 556.
    let code = ReplyCode::try_from(code).unwrap_or(ReplyCode::new(451));
    Reply::new(code, status, what.to_string())
}
