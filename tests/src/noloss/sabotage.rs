//! Ways to break the product from outside, to prove that the harness notices.

use crate::forwarder::Tampering;

/// One crime for a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Something between the roles and the servers lies.
    Tamper(Tampering),
    /// Servers acknowledge before they sync, and the roles are told to accept that.
    LazySync,
}

impl Sabotage {
    pub(super) fn tampering(self) -> Option<Tampering> {
        match self {
            Self::Tamper(tampering) => Some(tampering),
            Self::LazySync => None,
        }
    }
}
