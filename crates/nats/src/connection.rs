//! How a process logs in to the servers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ConnectOptions;

use crate::Cause;

/// The library leaves a server that has not answered two pings when the next is due. By default
/// that takes two minutes, in which a stopped server has the client wait in vain.
const PINGS: u32 = 3;

/// Where the buckets are.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// Servers as `nats://host:port` or `tls://host:port`.
    pub urls: Vec<String>,
    /// A file with the seed of the nkey to log in with.
    pub nkey_file: Option<PathBuf>,
    /// Certificates of authorities that the servers' certificates are checked by.
    pub ca_file: Option<PathBuf>,
    /// The prefix of the subjects where this client is answered.
    pub inbox_prefix: String,
    /// Copies of the buckets' streams.
    pub replicas: usize,
    /// How long an answer of a server is waited for.
    pub timeout: Duration,
}

impl Buckets {
    /// # Errors
    /// The seed cannot be read.
    pub async fn options(&self) -> Result<ConnectOptions, Cause> {
        let login = Login {
            nkey_file: self.nkey_file.as_deref(),
            ca_file: self.ca_file.as_deref(),
            inbox_prefix: &self.inbox_prefix,
            timeout: self.timeout,
        };
        login.options().await
    }
}

/// Who logs in, and how long it waits for answers.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// A file with the seed of the nkey.
    pub nkey_file: Option<&'a Path>,
    /// Certificates of authorities that the servers' certificates are checked by; TLS is required
    /// then.
    pub ca_file: Option<&'a Path>,
    /// The prefix of the subjects where this client is answered.
    pub inbox_prefix: &'a str,
    /// How long an answer is waited for, and a server that says nothing is believed to be there.
    pub timeout: Duration,
}

impl Login<'_> {
    /// # Errors
    /// The seed cannot be read.
    pub async fn options(&self) -> Result<ConnectOptions, Cause> {
        let mut options = ConnectOptions::new()
            .name("postrider")
            .custom_inbox_prefix(self.inbox_prefix)
            .request_timeout(Some(self.timeout))
            .ping_interval(self.timeout / PINGS);
        if let Some(file) = self.ca_file {
            options = options.add_root_certificates(file.to_owned()).require_tls(true);
        }
        if let Some(file) = self.nkey_file {
            let seed = tokio::fs::read_to_string(file).await?;
            options = options.nkey(seed.trim().to_owned());
        }
        Ok(options)
    }
}
