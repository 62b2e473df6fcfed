//! What an operator sets.

use std::io;
use std::path::PathBuf;

use retry::{Policy, PolicyChange, PolicyError};
use serde::{Deserialize, Serialize};

use crate::lmtp::{LmtpConfig, LmtpError};

/// The configuration of the MDA.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Where the Maildirs are; relative to the data directory.
    pub directory: PathBuf,
    /// The server that takes the mail by LMTP (RFC 2033); without it, Maildirs are written.
    pub lmtp: Option<LmtpConfig>,
    /// Messages written at the same time. They share the disk's syncs, so more than one saves time.
    pub deliveries_max: usize,
    /// When to try again what could not be stored: what differs from [`crate::Setup::retry`].
    pub retry: PolicyChange,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: "mail".into(),
            lmtp: None,
            deliveries_max: 16,
            retry: PolicyChange::default(),
        }
    }
}

/// Why the role cannot start with its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("deliveriesMax is not from 1 to 256")]
    DeliveriesMax,
    #[error("{0}")]
    Lmtp(LmtpError),
    #[error("retry: {0}")]
    Retry(PolicyError),
    #[error("directory: mail cannot be written to {directory}")]
    Directory { directory: PathBuf, source: io::Error },
}

impl Config {
    /// Checks what the types cannot say.
    pub fn validate(&self, retry: &Policy) -> Result<(), ConfigError> {
        // Each takes a thread of the runtime's blocking pool, which has 512.
        if !(1..=256).contains(&self.deliveries_max) {
            return Err(ConfigError::DeliveriesMax);
        }
        if let Some(lmtp) = &self.lmtp {
            lmtp.endpoint().map_err(ConfigError::Lmtp)?;
        }
        self.retry.of(retry).validate().map_err(ConfigError::Retry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_counts_and_nothing_else() {
        let config: Config = serde_json::from_str(r#"{"directory": "/srv/mail"}"#).unwrap();
        assert_eq!(config, Config { directory: "/srv/mail".into(), ..Config::default() });
        assert!(config.validate(&Policy::default()).is_ok());
        assert!(serde_json::from_str::<Config>(r#"{"root": "/srv/mail"}"#).is_err());
        for deliveries_max in [0, 257] {
            let config = Config { deliveries_max, ..Config::default() };
            let validated = config.validate(&Policy::default());
            assert!(matches!(validated, Err(ConfigError::DeliveriesMax)));
        }
        let config = Config { lmtp: Some(LmtpConfig::default()), ..Config::default() };
        assert!(matches!(config.validate(&Policy::default()), Err(ConfigError::Lmtp(_))));
        let retry = PolicyChange { repeat_seconds: Some(0), ..PolicyChange::default() };
        let config = Config { retry, ..Config::default() };
        assert!(matches!(config.validate(&Policy::default()), Err(ConfigError::Retry(_))));
    }
}
