//! Why no session could be had, and what that means for the recipients.
//!
//! With what `handover` says of a session that there was, the one table from errors to outcomes.
//! Three kinds are kept apart: the destination refuses or does not exist (bounce), it cannot be
//! reached or is not well (defer, wait for the hop), we are not well (defer, never a bounce).

use std::io;

use handover::{as_transient, session_report};
use mail_types::{EnhancedStatus, Reply, ReplyCode, Timestamp};
use outcome::Outcome;
use queue::{Report, Wait};
use smtp::client::SessionError;

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
    #[error("the password for {host} is not known here")]
    PasswordUnknown { host: String },
    /// One that the configuration or the domain table names: DNS says nothing of the recipient.
    #[error("host {0} has no address")]
    HostUnknown(String),
    /// The domain table has changed since the mail was accepted.
    #[error("mail of {0} is for mailboxes here now")]
    Hosted(String),
    /// The domain table here may not be the one in force.
    #[error("it is not known yet where mail for {0} goes")]
    Uncertain(String),
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
            Self::PasswordUnknown { .. } | Self::Hosted(_) | Self::Uncertain(_) => Blame::Us,
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::ConnectTimedOut { .. }
            | Self::Session { .. }
            | Self::TlsNotOffered { .. }
            | Self::TlsFailed { .. }
            | Self::AuthNotOffered { .. }
            | Self::AuthRefused { .. }
            | Self::HostUnknown(_) => Blame::Hop,
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
            Self::PasswordUnknown { .. } | Self::Hosted(_) => {
                ours(451, EnhancedStatus::new(4, 3, 5))
            }
            Self::HostUnknown(_) => ours(451, EnhancedStatus::new(4, 4, 4)),
            Self::Uncertain(_) => ours(451, EnhancedStatus::new(4, 3, 0)),
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

fn reply(code: u16, status: EnhancedStatus, what: &impl ToString) -> Reply {
    // Every caller writes a code between 451 and 556.
    let code = ReplyCode::try_from(code).unwrap_or(ReplyCode::new(451));
    Reply::new(code, status, what.to_string())
}
