//! SMTP replies as values.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::status::EnhancedStatus;

/// A reply code: three digits, the first from 2 to 5 (RFC 5321 §4.2).
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "u16", into = "u16")]
pub struct ReplyCode(u16);

/// What the first digit of a reply code says (RFC 5321 §4.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    Completion,
    Intermediate,
    Transient,
    Permanent,
}

/// A number that is no reply code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an SMTP reply code")]
pub struct ReplyCodeError;

impl ReplyCode {
    /// A code written in the source.
    ///
    /// # Panics
    /// At compile time, when the constant is none.
    pub const fn new(code: u16) -> Self {
        assert!(Self::is_code(code));
        Self(code)
    }

    /// RFC 5321 §4.2: 2–5, 0–5, 0–9; some servers use a second digit above 5, so it may be any.
    const fn is_code(code: u16) -> bool {
        200 <= code && code <= 599
    }

    pub fn value(self) -> u16 {
        self.0
    }

    pub fn severity(self) -> Severity {
        match self.0 / 100 {
            2 => Severity::Completion,
            3 => Severity::Intermediate,
            4 => Severity::Transient,
            _ => Severity::Permanent,
        }
    }
}

impl TryFrom<u16> for ReplyCode {
    type Error = ReplyCodeError;

    fn try_from(code: u16) -> Result<Self, ReplyCodeError> {
        if Self::is_code(code) { Ok(Self(code)) } else { Err(ReplyCodeError) }
    }
}

impl From<ReplyCode> for u16 {
    fn from(code: ReplyCode) -> Self {
        code.0
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A whole reply: one that we give, or one that a peer gave, already bounded and free of controls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Reply {
    pub code: ReplyCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub status: Option<EnhancedStatus>,
    /// The lines without codes, joined by `\n`. Holds no other control character.
    pub text: String,
}

impl Reply {
    pub fn new(code: ReplyCode, status: EnhancedStatus, text: impl Into<String>) -> Self {
        Self { code, status: Some(status), text: text.into() }
    }

    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    pub fn is_positive(&self) -> bool {
        self.severity() == Severity::Completion
    }

    pub fn is_transient(&self) -> bool {
        self.severity() == Severity::Transient
    }

    pub fn is_permanent(&self) -> bool {
        self.severity() == Severity::Permanent
    }

    /// The enhanced status, or the general one of the code's class when the peer gave none.
    pub fn status_or_general(&self) -> EnhancedStatus {
        self.status.unwrap_or(match self.severity() {
            Severity::Completion | Severity::Intermediate => EnhancedStatus::new(2, 0, 0),
            Severity::Transient => EnhancedStatus::new(4, 0, 0),
            Severity::Permanent => EnhancedStatus::new(5, 0, 0),
        })
    }
}

impl fmt::Display for Reply {
    /// One line, for logs and Diagnostic-Code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        for line in self.text.split('\n') {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}
