//! What is wrong with a resource, where, and what to do.

use std::fmt;

/// Where a resource stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub file: String,
    /// Counted from 1; 0 when unknown.
    pub line: u64,
}

/// One mistake. Printed as `file:line: field: message; remedy`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Problem {
    pub source_place: Source,
    /// The path of the field, such as `spec.inbound.aliases[0].to[1]`; empty for the whole.
    pub field: String,
    pub message: String,
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.source_place.file, self.source_place.line)?;
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
