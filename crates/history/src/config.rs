//! What an operator may set.

use serde::{Deserialize, Serialize};

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Octets of the files, about 1 KB for each job; 0 keeps none.
    pub max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_bytes: 256 << 20 }
    }
}
