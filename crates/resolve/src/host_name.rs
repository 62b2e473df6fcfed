//! Names of hosts, as DNS gives them.

use std::fmt;

use mail_types::Domain;

/// The name of a host in lower case, without a final dot.
///
/// Laxer than [`Domain`]: MX records name hosts with underscores, and such hosts take mail.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostName(Box<str>);

/// A text that is no name of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a host")]
pub struct HostNameError;

impl HostName {
    /// Reads a name, with or without its final dot. An address is no name.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let label_ok = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
        let last = name.rsplit('.').next().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit());
        if name.len() > 253 || numeric || !name.split('.').all(label_ok) {
            return Err(HostNameError);
        }
        Ok(Self(name.into_boxed_str()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Domain> for HostName {
    fn from(domain: &Domain) -> Self {
        Self(domain.as_str().into())
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, want) in
            [("MX.Example.ORG.", "mx.example.org"), ("a_b.example", "a_b.example"), ("x", "x")]
        {
            assert_eq!(HostName::parse(text).unwrap().as_str(), want);
        }
        for text in ["", ".", "a..b", "192.0.2.1", "a b", "a\0b", "ä.example", &"a".repeat(64)] {
            assert!(HostName::parse(text).is_err(), "{text:?}");
        }
    }
}
