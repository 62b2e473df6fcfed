//! Mailboxes: `Local-part "@" ( Domain / address-literal )` (RFC 5321 §4.1.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::{Domain, DomainError};

/// What stands before the `@`, with quoting removed.
///
/// Compared byte for byte (RFC 5321 §2.4 leaves its meaning to the host that owns it); no
/// normalisation is applied to UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPart(Box<str>);

/// An address literal (RFC 5321 §4.1.3).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum AddressLiteral {
    Ip(IpAddr),
    /// `[tag:content]` with a tag other than `IPv6`; we can store it, never connect to it.
    General {
        tag: Box<str>,
        content: Box<str>,
    },
}

/// What stands after the `@`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Host {
    Domain(Domain),
    Literal(AddressLiteral),
}

/// A mail address of the envelope.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mailbox {
    local_part: LocalPart,
    host: Host,
}

/// Why a text is no mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    #[error("address has no \"@\"")]
    NoAt,
    #[error("local part is empty")]
    EmptyLocalPart,
    #[error("local part is longer than 64 octets")]
    LongLocalPart,
    #[error("local part has a character that must be quoted, or may not occur at all")]
    LocalPartSyntax,
    #[error(transparent)]
    Domain(#[from] DomainError),
    #[error("address literal is not understood")]
    Literal,
    #[error("address is longer than 254 octets")]
    TooLong,
}

/// Of names that we give (RFC 5321 §4.5.3.1.1). Others' may be longer, as those of bulk senders and
/// of forwarders are: only the whole address has a bound then, as RFC 5321 §4.5.3.1 advises.
const LOCAL_PART_OCTETS_MAX: usize = 64;
/// RFC 5321 §4.5.3.1.3: 256 with the angle brackets.
const MAILBOX_OCTETS_MAX: usize = 254;

impl LocalPart {
    /// Reads a Dot-string or a Quoted-string (RFC 5321 §4.1.2, RFC 6531 §3.3) that a host of ours
    /// may have: of at most 64 octets.
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        let read = Self::read(text)?;
        if text.len() > LOCAL_PART_OCTETS_MAX {
            return Err(MailboxError::LongLocalPart);
        }
        Ok(read)
    }

    fn read(text: &str) -> Result<Self, MailboxError> {
        if text.is_empty() {
            return Err(MailboxError::EmptyLocalPart);
        }
        let content = match text.strip_prefix('"') {
            Some(rest) => unquote(rest).ok_or(MailboxError::LocalPartSyntax)?,
            None if is_dot_string(text) => text.to_owned(),
            None => return Err(MailboxError::LocalPartSyntax),
        };
        Ok(Self(content.into_boxed_str()))
    }

    /// The local part with this content, which is quoted where it must be.
    pub fn of_content(content: &str) -> Result<Self, MailboxError> {
        if !content.chars().all(|c| matches!(c, ' '..='~') || is_utf8_text(c)) {
            return Err(MailboxError::LocalPartSyntax);
        }
        Ok(Self(content.into()))
    }

    /// The content, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_utf8_text(c)
}

/// UTF8-non-ascii of RFC 6532 §3.1, without the C1 controls, which are controls to a terminal.
fn is_utf8_text(c: char) -> bool {
    !c.is_ascii() && !c.is_control()
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

/// The content of a Quoted-string whose opening quote has been read; `None` if it is not one.
fn unquote(rest: &str) -> Option<String> {
    let inner = rest.strip_suffix('"')?;
    let mut content = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => chars.next().filter(|c| matches!(c, ' '..='~'))?,
            '"' => return None,
            c => c,
        };
        if !(matches!(c, ' '..='~') || is_utf8_text(c)) {
            return None;
        }
        content.push(c);
    }
    Some(content)
}

impl fmt::Display for LocalPart {
    /// Writes the form with the fewest quotes (RFC 5321 §4.1.2).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        if is_dot_string(&self.0) {
            return f.write_str(&self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        f.write_char('"')
    }
}

impl fmt::Debug for LocalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl AddressLiteral {
    /// Reads `[192.0.2.1]`, `[IPv6:2001:db8::1]` or `[tag:content]`, brackets included.
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let inner = inner.ok_or(MailboxError::Literal)?;
        if let Ok(v4) = inner.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(v4.into()));
        }
        let (tag, content) = inner.split_once(':').ok_or(MailboxError::Literal)?;
        if tag.eq_ignore_ascii_case("ipv6") {
            let v6 = content.parse::<Ipv6Addr>().map_err(|_| MailboxError::Literal)?;
            return Ok(Self::Ip(v6.into()));
        }
        let ldh = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let tag_ok = !tag.is_empty() && tag.bytes().all(ldh) && !tag.ends_with('-');
        let dcontent = |b: u8| matches!(b, 33..=90 | 94..=126);
        if !tag_ok || content.is_empty() || !content.bytes().all(dcontent) {
            return Err(MailboxError::Literal);
        }
        Ok(Self::General { tag: tag.into(), content: content.into() })
    }
}

impl fmt::Display for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(v4)) => write!(f, "[{v4}]"),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[IPv6:{v6}]"),
            Self::General { tag, content } => write!(f, "[{tag}:{content}]"),
        }
    }
}

impl Host {
    /// Reads a domain or an address literal, as they stand after `@` and after EHLO.
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        if text.starts_with('[') {
            return AddressLiteral::parse(text).map(Self::Literal);
        }
        Ok(Self::Domain(Domain::parse(text)?))
    }

    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Literal(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(literal) => literal.fmt(f),
        }
    }
}

impl Mailbox {
    pub fn new(local_part: LocalPart, host: Host) -> Self {
        Self { local_part, host }
    }

    /// Reads `local-part@host`, without angle brackets.
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        let at = local_part_end(text).ok_or(MailboxError::NoAt)?;
        let local_part = LocalPart::read(&text[..at])?;
        let host = Host::parse(&text[at + 1..])?;
        if text.len() > MAILBOX_OCTETS_MAX {
            return Err(MailboxError::TooLong);
        }
        Ok(Self { local_part, host })
    }

    pub fn local_part(&self) -> &LocalPart {
        &self.local_part
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn domain(&self) -> Option<&Domain> {
        self.host.domain()
    }

    /// Whether a next hop without SMTPUTF8 can be told this address (RFC 6531 §3.2).
    pub fn is_ascii(&self) -> bool {
        self.local_part.0.is_ascii()
    }
}

/// Where the `@` stands that ends the local part: after the closing quote, or the first one.
fn local_part_end(text: &str) -> Option<usize> {
    if !text.starts_with('"') {
        return text.find('@');
    }
    let mut escaped = false;
    for (at, b) in text.bytes().enumerate().skip(1) {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return (text.as_bytes().get(at + 1) == Some(&b'@')).then_some(at + 1),
            _ => {}
        }
    }
    None
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local_part, self.host)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mailbox {
    type Err = MailboxError;

    fn from_str(text: &str) -> Result<Self, MailboxError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Mailbox {
    type Error = MailboxError;

    fn try_from(text: String) -> Result<Self, MailboxError> {
        Self::parse(&text)
    }
}

impl From<Mailbox> for String {
    fn from(mailbox: Mailbox) -> Self {
        mailbox.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_and_prints_with_the_fewest_quotes() {
        for (input, printed) in [
            ("a@example.org", "a@example.org"),
            ("A.b+c@Example.ORG", "A.b+c@example.org"),
            ("\"a\"@example.org", "a@example.org"),
            ("\"a b\"@example.org", "\"a b\"@example.org"),
            ("\"a\\\"b\"@example.org", "\"a\\\"b\"@example.org"),
            ("\"a@b\"@example.org", "\"a@b\"@example.org"),
            ("\"\"@example.org", "\"\"@example.org"),
            ("jürgen@bücher.example", "jürgen@xn--bcher-kva.example"),
            ("a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("a@[IPv6:2001:DB8::1]", "a@[IPv6:2001:db8::1]"),
            ("a@[x-tag:whatever]", "a@[x-tag:whatever]"),
        ] {
            assert_eq!(Mailbox::parse(input).map(|m| m.to_string()), Ok(printed.into()), "{input}");
        }
    }

    #[test]
    fn refuses() {
        for input in [
            "",
            "a",
            "@example.org",
            "a@",
            "a b@example.org",
            ".a@example.org",
            "a.@example.org",
            "a..b@example.org",
            "a@b@example.org",
            "\"a@example.org",
            "\"a\"b@example.org",
            "\"a\0\"@example.org",
            "\"a\r\n\"@example.org",
            "a\u{85}@example.org",
            "a@[1.2.3]",
            "a@[IPv6:zz]",
            "a@[]",
            "a@example.org.",
            "a,b@example.org",
            "<a@example.org>",
            "a\\@example.org",
        ] {
            assert!(Mailbox::parse(input).is_err(), "{input:?}");
        }
        let long = "a".repeat(65);
        assert_eq!(LocalPart::parse(&long), Err(MailboxError::LongLocalPart));
        assert!(Mailbox::parse(&format!("{long}@example.org")).is_ok(), "whatever others have");
        let long = format!("{}@example.org", "a".repeat(243));
        assert_eq!(Mailbox::parse(&long), Err(MailboxError::TooLong));
    }

    proptest! {
        #[test]
        fn printing_is_parsed_back(content in "[ -~äß漢]{0,20}") {
            let quoted = content.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("\"{quoted}\"@example.org");
            let mailbox = Mailbox::parse(&text).unwrap();
            prop_assert_eq!(mailbox.local_part().as_str(), &content);
            prop_assert_eq!(Mailbox::parse(&mailbox.to_string()).unwrap(), mailbox);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
            if let Ok(mailbox) = Mailbox::parse(&text) {
                prop_assert_eq!(Mailbox::parse(&mailbox.to_string()), Ok(mailbox));
            }
        }
    }
}
