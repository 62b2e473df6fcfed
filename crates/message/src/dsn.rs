//! Delivery status notifications (RFC 3464, RFC 3461 §6, RFC 6522, RFC 6533).

mod compose;
mod parse;
mod returned;
mod text;

use mail_types::{
    EnhancedStatus, EnvId, Host, Mailbox, OriginalRecipient, QueueId, Reply, Timestamp,
};

pub use compose::{Composed, compose};
pub use parse::{Parsed, ParsedRecipient, parse};

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Failed,
    Delayed,
    Delivered,
    /// Handed to a host that cannot send DSNs.
    Relayed,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }
}

/// What a DSN says about one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecipientReport {
    pub final_recipient: Mailbox,
    pub original: Option<OriginalRecipient>,
    pub action: Action,
    pub status: EnhancedStatus,
    /// The host that said `reply`: its name, or `name[address]:port`.
    pub remote: Option<String>,
    pub reply: Option<Reply>,
    pub last_attempt: Option<Timestamp>,
    /// For a delay.
    pub will_retry_until: Option<Timestamp>,
}

/// A DSN to be composed.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Our name.
    pub reporting_mta: &'a Host,
    /// Whom it is for: the reverse-path of the message.
    pub to: &'a Mailbox,
    pub envid: Option<&'a EnvId>,
    pub arrival: Timestamp,
    /// The name by which the client of the message introduced itself.
    pub received_from: Option<&'a str>,
    /// The message that is reported.
    pub message: QueueId,
    /// At least one.
    pub recipients: &'a [RecipientReport],
    pub returned: Returned<'a>,
    /// When the DSN is made.
    pub date: Timestamp,
    /// Makes the boundary and the Message-ID unique.
    pub random: u128,
}

/// How much of the message goes back (RFC 3461 §4.3).
///
/// Where it has lines beyond 998 octets, a bare CR or LF, or NUL, only sound header fields do.
#[derive(Clone, Copy, Debug)]
pub enum Returned<'a> {
    /// All of it, from its first octet.
    Full(&'a [u8]),
    /// Its header block, or the first fields of it.
    Headers(&'a [u8]),
}
