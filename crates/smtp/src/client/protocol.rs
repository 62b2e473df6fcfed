//! What a client speaks.

use super::transaction::Step;

/// SMTP, or LMTP (RFC 2033): the same but for the greeting, and for how many replies the end of the
/// content has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    #[default]
    Smtp,
    /// Every recipient that was accepted has a reply of its own after the final dot
    /// (RFC 2033 §4.2).
    Lmtp,
}

impl Protocol {
    /// The command that asks for extensions (RFC 2033 §4.1).
    pub(super) fn hello(self) -> &'static str {
        match self {
            Self::Smtp => "EHLO",
            Self::Lmtp => "LHLO",
        }
    }

    pub(super) fn hello_step(self) -> Step {
        match self {
            Self::Smtp => Step::Hello,
            Self::Lmtp => Step::Lhlo,
        }
    }
}
