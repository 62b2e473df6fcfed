//! What is wrong with a resource, where, and what to do.

use std::fmt;

/// A place in a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Source {
    /// Empty when the mistake is in no file.
    pub file: String,
    /// Counted from 1; 0 when unknown.
    pub line: u64,
    /// Counted from 1; 0 when unknown.
    pub column: u64,
}

/// One mistake. Printed as `file:line: field: message; remedy`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub struct Problem {
    pub at: Source,
    /// The path of the field, such as `spec.inbound.aliases[0].to[1]`; empty for the whole.
    pub field: String,
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.file.is_empty() {
            write!(f, "{}:{}: ", self.at.file, self.at.line)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
