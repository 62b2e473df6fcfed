//! `operator.yaml`: what the chart tells of the installation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mail_types::Mailbox;
use queue_jetstream::permissions::Role;
use serde::Deserialize;

use crate::claims::Claims;

/// One installation.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    /// Begins the names of what the operator makes in its own namespace.
    pub(crate) release: String,
    /// Its own.
    pub(crate) namespace: String,
    /// Whose resources it reads; all of the cluster when there is none.
    #[serde(default)]
    pub(crate) watch_namespaces: Vec<String>,
    #[serde(default)]
    pub(crate) claims: Claims,
    /// Where mail for `<postmaster>` without a domain goes.
    #[serde(default)]
    pub(crate) postmaster: Option<Mailbox>,
    /// Lets a table be published that lacks most domains of the one before, without a MailDomain
    /// having been deleted for each.
    #[serde(default)]
    pub(crate) confirm_shrink: bool,
    pub(crate) nats: Nats,
    /// Where it puts its own keys; in memory, best of all.
    pub(crate) directory: PathBuf,
    #[serde(default)]
    pub(crate) http: runtime::http::Config,
    #[serde(default)]
    pub(crate) log: runtime::telemetry::Config,
}

/// The servers that hold queue and table.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Nats {
    /// As `nats://host:port` or `tls://host:port`.
    pub(crate) urls: Vec<String>,
    /// Copies of each stream.
    pub(crate) replicas: usize,
    /// Whether the servers' keys and permissions are made here.
    #[serde(default)]
    pub(crate) bundled: bool,
    /// The names in the certificate of the bundled servers.
    #[serde(default)]
    pub(crate) server_names: Vec<String>,
    /// `jetstream.partitions` of the roles.
    #[serde(default = "partitions")]
    pub(crate) partitions: u16,
}

fn partitions() -> u16 {
    4
}

/// How long a server's answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Config {
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let config: Self = runtime::config::load(path)?;
        anyhow::ensure!(
            config.watch_namespaces.is_empty() || !config.claims.look_at_labels(),
            "{}: claims.allow: with watchNamespaces no labels of namespaces are seen; select by \
             kubernetes.io/metadata.name",
            path.display()
        );
        Ok(config)
    }

    /// A file of its own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the domain table is, once the keys are in place.
    pub(crate) fn buckets(&self) -> domains_kv::Buckets {
        let existing = |name| Some(self.file(name)).filter(|path| path.exists());
        domains_kv::Buckets {
            urls: self.nats.urls.clone(),
            nkey_file: existing("nkey.seed"),
            ca_file: existing("ca.crt"),
            inbox_prefix: Role::Admin.inbox(),
            replicas: self.nats.replicas,
            timeout: TIMEOUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_chart_writes() {
        let text = "release: mail\nnamespace: postrider\nclaims:\n  allow:\n  - namespaceSelector: \
                    {matchLabels: {team: a}}\n    domains: [\"*.example.org\"]\nnats:\n  urls: \
                    [\"tls://nats:4222\"]\n  replicas: 3\ndirectory: /run/postrider\nhttp: \
                    {address: \"[::]:8080\"}\n";
        let dir = std::env::temp_dir().join(format!("operator-config-{}", std::process::id()));
        std::fs::write(&dir, text).unwrap();
        let config = Config::load(&dir).unwrap();
        std::fs::remove_file(dir).unwrap();
        assert_eq!(config.nats.partitions, 4);
        assert_eq!(config.buckets().nkey_file, None);
    }
}
