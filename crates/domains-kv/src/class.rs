//! Which secrets go together: who may open one of a class may open all of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a secret is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Private keys of certificates.
    Tls,
    /// Hashes of mailboxes' passwords.
    Passwords,
    /// Private keys that sign mail. In no record yet.
    Dkim,
}

impl Class {
    pub const ALL: [Self; 3] = [Self::Tls, Self::Passwords, Self::Dkim];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Passwords => "passwords",
            Self::Dkim => "dkim",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no class has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no class of secrets: tls, passwords or dkim")]
pub struct NoClass(String);

impl FromStr for Class {
    type Err = NoClass;

    fn from_str(text: &str) -> Result<Self, NoClass> {
        let found = Self::ALL.into_iter().find(|class| class.name() == text);
        found.ok_or_else(|| NoClass(text.to_owned()))
    }
}
