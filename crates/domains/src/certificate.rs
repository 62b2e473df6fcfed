//! A domain's own certificate.

use std::fmt;

use mail_types::Domain;
use serde::{Deserialize, Serialize};

/// What is shown to clients that ask for a name of the domain.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificate {
    /// PEM: the certificate, and those that lead to an authority.
    pub chain: String,
    /// PEM; empty where it is kept apart.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

impl Certificate {
    /// Whether a name that a certificate is for, such as `*.example.org`, is of the domain: nobody
    /// answers by the name of another.
    pub fn is_of(name: &str, domain: &Domain) -> bool {
        let name = name.to_ascii_lowercase();
        let above = name.strip_suffix(domain.as_str());
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    }
}

impl fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_domain() {
        let domain: Domain = "example.org".parse().unwrap();
        for (name, wanted) in [
            ("example.org", true),
            ("MX.Example.org", true),
            ("*.example.org", true),
            ("notexample.org", false),
            ("org", false),
            ("example.org.evil.example", false),
        ] {
            assert_eq!(Certificate::is_of(name, &domain), wanted, "{name}");
        }
    }
}
