//! Enhanced mail system status codes (RFC 3463).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `class.subject.detail`, such as `5.1.1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnhancedStatus {
    class: u8,
    subject: u16,
    detail: u16,
}

/// A text that is no enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code of RFC 3463, such as 5.1.1")]
pub struct StatusError;

impl EnhancedStatus {
    /// A code written in the source: `class` is 2, 4 or 5, the others are below 1000.
    ///
    /// # Panics
    /// At compile time, when the constant is none.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        assert!(matches!(class, 2 | 4 | 5) && subject < 1000 && detail < 1000);
        Self { class, subject, detail }
    }

    pub fn class(self) -> u8 {
        self.class
    }

    pub fn subject(self) -> u16 {
        self.subject
    }

    pub fn detail(self) -> u16 {
        self.detail
    }

    /// The same subject and detail in another class: a deferral that expired is a failure.
    pub fn with_class(self, class: u8) -> Self {
        Self::new(class, self.subject, self.detail)
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EnhancedStatus {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let number = |part: Option<&str>| -> Result<u16, StatusError> {
            let part = part.ok_or(StatusError)?;
            let digits = !part.is_empty() && part.len() <= 3;
            if !digits || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(StatusError);
            }
            part.parse().map_err(|_| StatusError)
        };
        let mut parts = text.split('.');
        let (class, subject, detail) =
            (number(parts.next())?, number(parts.next())?, number(parts.next())?);
        if parts.next().is_some() || text.as_bytes().get(1) != Some(&b'.') {
            return Err(StatusError);
        }
        match class {
            2 | 4 | 5 => Ok(Self { class: class as u8, subject, detail }),
            _ => Err(StatusError),
        }
    }
}

impl TryFrom<String> for EnhancedStatus {
    type Error = StatusError;

    fn try_from(text: String) -> Result<Self, StatusError> {
        text.parse()
    }
}

impl From<EnhancedStatus> for String {
    fn from(status: EnhancedStatus) -> Self {
        status.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints_and_nothing_else() {
        for text in ["2.0.0", "4.7.26", "5.999.999"] {
            assert_eq!(text.parse::<EnhancedStatus>().unwrap().to_string(), text);
        }
        for text in ["", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.1000", "5.+1.1", "05.1.1", "5..1"] {
            assert!(text.parse::<EnhancedStatus>().is_err(), "{text}");
        }
    }
}
