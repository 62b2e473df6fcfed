//! Logins and mailboxes for a Dovecot that serves our Maildirs by IMAP and POP3.
//!
//! ```text
//! client ── imap-login ── auth ──fork──▶ postrider dovecot-login ──socket──▶ the MDA's process
//!                          ▲── checkpassword-reply ◀──exec──┘
//! ```
//!
//! Dovecot runs a program for each login (its driver `checkpassword`). The program knows nothing:
//! it asks the process that has the table, a request and an answer of one JSON object each, and
//! becomes the one that tells Dovecot. So a password that is added lets in at once and one that is
//! revoked no more, whatever its scheme; hashes stay where they are; and failures count together
//! with those of submission. (Files of users, which Dovecot reads itself, would hold the hashes of
//! all mailboxes in clear, and know no limit of failures.)
//!
//! **Failure behaviour.** What is not known at the moment is a temporary failure, never a wrong
//! password, and a mailbox is unknown only when its absence is proven.

pub(crate) mod login;
pub(crate) mod service;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a login may take, with its wait for others' and the delay of a failure.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Dovecot gives login and password 512 octets; as JSON each may take six.
const REQUEST_OCTETS_MAX: u64 = 4096;
/// A path has at most 4096 octets, an address 254.
const ANSWER_OCTETS_MAX: u64 = 32 * 1024;

/// What Dovecot may ask.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    /// The socket that `postrider dovecot-login` asks, for our user and group; without it nobody
    /// asks.
    pub(crate) socket: Option<PathBuf>,
}

/// A question. Not to be shown: it may hold a password.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    login: String,
    /// Without one the question is only where the mailbox is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    /// Whose a wrong password is; `None` when Dovecot does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
}

#[derive(PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Answer {
    Mailbox(Place),
    /// The password is wrong, or there is no such mailbox.
    Refused,
    /// It is not known at the moment, or too many ask.
    Unavailable,
}

/// A mailbox that receives mail.
#[derive(PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Place {
    /// Its own address.
    address: String,
    /// Its Maildir.
    home: PathBuf,
    /// Whose files are in it.
    uid: u32,
    gid: u32,
}
