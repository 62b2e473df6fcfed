//! The arguments of MAIL FROM and RCPT TO, parsed once.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mailbox::{Mailbox, MailboxError};

/// The argument of MAIL FROM: where reports of failure go.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReversePath {
    /// `<>`: the sender of DSNs, who never gets one (RFC 5321 §4.5.5).
    Null,
    Mailbox(Mailbox),
}

/// The argument of RCPT TO.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain (RFC 5321 §4.5.1).
    Postmaster,
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads the text between the angle brackets; a source route is dropped (RFC 5321 §4.1.1.2).
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        if text.is_empty() {
            return Ok(Self::Null);
        }
        Mailbox::parse(without_route(text)).map(Self::Mailbox)
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

impl ForwardPath {
    /// Reads the text between the angle brackets; a source route is dropped (RFC 5321 §4.1.1.3).
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        Mailbox::parse(without_route(text)).map(Self::Mailbox)
    }
}

/// `@a,@b:user@c` is `user@c`: routes MUST be accepted and SHOULD be ignored (RFC 5321 §4.1.2).
fn without_route(text: &str) -> &str {
    if !text.starts_with('@') {
        return text;
    }
    text.split_once(':').map_or(text, |(route, rest)| {
        let hop_ok = |hop: &str| {
            hop.strip_prefix('@').is_some_and(|domain| crate::Domain::parse(domain).is_ok())
        };
        if route.split(',').all(hop_ok) { rest } else { text }
    })
}

impl fmt::Display for ReversePath {
    /// Writes the path with its angle brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

impl fmt::Display for ForwardPath {
    /// Writes the path with its angle brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("<postmaster>"),
            Self::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

impl TryFrom<String> for ReversePath {
    type Error = MailboxError;

    fn try_from(text: String) -> Result<Self, MailboxError> {
        Self::parse(&text)
    }
}

impl From<ReversePath> for String {
    fn from(path: ReversePath) -> Self {
        path.mailbox().map(ToString::to_string).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_paths() {
        assert_eq!(ReversePath::parse(""), Ok(ReversePath::Null));
        assert_eq!(ReversePath::parse("a@b.example").unwrap().to_string(), "<a@b.example>");
        assert_eq!(
            ReversePath::parse("@x.example:a@b.example").unwrap().to_string(),
            "<a@b.example>"
        );
        assert!(ReversePath::parse("@x.example,a@b.example").is_err());
        assert!(ReversePath::parse(" ").is_err());
    }

    #[test]
    fn forward_paths() {
        assert_eq!(ForwardPath::parse("PostMaster"), Ok(ForwardPath::Postmaster));
        assert!(ForwardPath::parse("").is_err());
        assert!(ForwardPath::parse("@bad_route:a@b.example").is_err());
        let routed = ForwardPath::parse("@x.example,@y.example:a@b.example").unwrap();
        assert_eq!(routed.to_string(), "<a@b.example>");
    }
}
