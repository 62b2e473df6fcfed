//! Domain names as mail uses them.

use std::fmt;
use std::str::FromStr;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A domain name in the one form that may be compared: lower-case A-labels, without a final dot.
///
/// U-labels are accepted on input (RFC 6531 §3.3) and kept as A-labels, which every DNS server and
/// every next hop understands.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Domain(Box<str>);

/// Why a text is no domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    #[error("domain is empty")]
    Empty,
    #[error("domain is longer than 255 octets or has a label longer than 63")]
    TooLong,
    #[error("domain has a character or label that RFC 5321 does not allow")]
    Syntax,
    #[error("domain is not in its normal form: write it in lower case, with full stops")]
    NotNormal,
    #[error("domain ends in a number; an address literal is written in brackets")]
    Numeric,
}

impl Domain {
    /// Reads a domain in A-labels or U-labels (RFC 5321 §4.1.2, RFC 6531 §3.3).
    ///
    /// A text that IDNA would *map* to something else (full-width letters, ideographic full stops)
    /// is refused: two people must not see one name and mean two.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        if text.len() > 255 {
            return Err(DomainError::TooLong);
        }
        let ascii = if text.is_ascii() { ascii_form(text)? } else { idna_form(text)? };
        let last = ascii.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DomainError::Numeric);
        }
        Ok(Self(ascii.into_boxed_str()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `other` or a name below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.strip_suffix(&*other.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

fn ascii_form(text: &str) -> Result<String, DomainError> {
    if text.len() > 253 || text.split('.').any(|label| label.len() > 63) {
        return Err(DomainError::TooLong);
    }
    let ldh = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.bytes().all(ldh)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !text.split('.').all(label_ok) {
        return Err(DomainError::Syntax);
    }
    let lower = text.to_ascii_lowercase();
    if lower.split('.').any(|label| label.starts_with("xn--")) {
        let (_, valid) =
            Uts46::new().to_unicode(lower.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow);
        valid.map_err(|_| DomainError::Syntax)?;
    }
    Ok(lower)
}

fn idna_form(text: &str) -> Result<String, DomainError> {
    let uts46 = Uts46::new();
    let ascii = uts46
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| DomainError::Syntax)?;
    let (unicode, valid) = uts46.to_unicode(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow);
    valid.map_err(|_| DomainError::Syntax)?;
    if unicode != text.to_lowercase() {
        return Err(DomainError::NotNormal);
    }
    Ok(ascii.into_owned())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        Self::parse(&text)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_to_compare() {
        for (input, want) in [
            ("Example.ORG", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("r3---x.example", "r3---x.example"),
            ("localhost", "localhost"),
            ("straße.example", "xn--strae-oqa.example"),
        ] {
            assert_eq!(Domain::parse(input).map(String::from), Ok(want.into()), "{input}");
        }
    }

    #[test]
    fn refuses() {
        use DomainError::{Empty, NotNormal, Numeric, Syntax, TooLong};
        for (input, want) in [
            ("", Empty),
            (".", Syntax),
            ("a..b", Syntax),
            ("example.org.", Syntax),
            ("-a.example", Syntax),
            ("a_b.example", Syntax),
            ("a b.example", Syntax),
            ("a\0.example", Syntax),
            ("example．org", NotNormal),
            ("ｅxample.org", NotNormal),
            ("bücher。example", NotNormal),
            ("192.0.2.1", Numeric),
            ("xn--\u{fffd}", Syntax),
            (&"a".repeat(64), TooLong),
            (&"a.".repeat(130), TooLong),
        ] {
            assert_eq!(Domain::parse(input), Err(want), "{input}");
        }
    }

    #[test]
    fn within() {
        let d = |s| Domain::parse(s).unwrap();
        assert!(d("a.example").is_within(&d("example")));
        assert!(d("example").is_within(&d("example")));
        assert!(!d("anexample").is_within(&d("example")));
    }
}
