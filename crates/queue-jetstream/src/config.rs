//! What an operator may set.

use std::path::PathBuf;
use std::time::Duration;

use queue::HopKind;
use queue::schedule::Usage;
use serde::{Deserialize, Serialize};

use crate::names::{Intakes, Partition};

/// Settings of the queue on JetStream. Sizes in octets, times in seconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Servers as `nats://host:port` or `tls://host:port`.
    pub urls: Vec<String>,
    /// The monitoring endpoint of each server as `http://host:port`: where it tells whether it
    /// syncs before it acknowledges.
    pub monitor_urls: Vec<String>,
    /// Go on although nobody can tell whether the servers sync before they acknowledge. A power
    /// cut may then lose mail that was answered 250.
    pub allow_unverified_sync: bool,
    /// A file with the seed of the nkey to log in with.
    pub nkey_file: Option<PathBuf>,
    /// Certificates of authorities that the servers' certificates are checked by.
    pub ca_file: Option<PathBuf>,
    /// Copies of each stream: 1 or 3.
    pub replicas: usize,
    /// Shares of the next hops by SMTP, each with one owner at a time. Not to be changed while
    /// mail is queued.
    pub partitions: u16,
    /// Octets of mail from outside that may wait for its first attempt, over all partitions.
    pub intake_bytes: u64,
    /// Octets of DSNs and forwards that may wait for their first attempt.
    pub reserve_bytes: u64,
    /// Octets of content that large mail and mail that outlived its first attempt have in the body
    /// streams, at which mail from outside is refused. Looked at each second: give the servers a
    /// tenth more than all three together.
    pub body_bytes: u64,
    /// Messages of an intake that its owner has in hand.
    pub window: usize,
    /// Octets of them: one message more is taken while there are fewer.
    pub window_bytes: u64,
    /// After so long without a sign of life of its owner a message is another's.
    pub ack_wait_seconds: u64,
    /// After so long without a sign of life of its owner a partition is another's.
    pub ownership_ttl_seconds: u64,
    /// How long an answer of a server is waited for.
    pub timeout_seconds: u64,
    /// How long a lease lasts unless extended: longer than what lies between two extensions.
    pub lease_seconds: u64,
    /// Messages that a tenant may have in the queue.
    pub tenant_messages: Option<u64>,
    /// Octets of content that a tenant may have in the queue.
    pub tenant_bytes: Option<u64>,
    /// The longest that the ingress lets a message take from its first octet to its last. Content
    /// that nothing refers to is deleted when more than twice as old, and a day. Set from the
    /// ingress' own limit.
    #[serde(skip, default = "longest_data_seconds")]
    pub longest_data_seconds: u64,
}

fn longest_data_seconds() -> u64 {
    Config::default().longest_data_seconds
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            monitor_urls: Vec::new(),
            allow_unverified_sync: false,
            nkey_file: None,
            ca_file: None,
            replicas: 3,
            partitions: 4,
            intake_bytes: 8 << 30,
            reserve_bytes: 1 << 30,
            body_bytes: 32 << 30,
            window: 2000,
            window_bytes: 32 << 20,
            ack_wait_seconds: 120,
            ownership_ttl_seconds: 15,
            timeout_seconds: 10,
            lease_seconds: 20 * 60,
            tenant_messages: None,
            tenant_bytes: None,
            longest_data_seconds: 2 * 3600,
        }
    }
}

impl Config {
    /// How many partitions a kind of next hops has: mailboxes have one store.
    pub(crate) fn partitions_of(&self, kind: HopKind) -> u16 {
        match kind {
            HopKind::Smtp => self.partitions,
            HopKind::Mailbox => 1,
        }
    }

    pub(crate) fn all_partitions(&self) -> impl Iterator<Item = Partition> {
        let kinds = [HopKind::Smtp, HopKind::Mailbox];
        kinds.into_iter().flat_map(|kind| Partition::all(kind, self.partitions_of(kind)))
    }

    /// Whether a write waits for other servers: then the rounds between them are what costs.
    pub(crate) fn is_replicated(&self) -> bool {
        self.replicas > 1
    }

    pub(crate) fn intakes(&self) -> Intakes {
        if self.is_replicated() { Intakes::One } else { Intakes::EachLane }
    }

    /// What is wrong with the settings, in words for an operator.
    pub fn validate(&self) -> Result<(), String> {
        if self.urls.is_empty() {
            return Err("urls is empty: name a server as nats://host:4222".into());
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return Err("replicas must be 1, 3 or 5".into());
        }
        if self.partitions == 0 || self.partitions > 256 {
            return Err("partitions must be from 1 to 256".into());
        }
        if self.window == 0 || self.window > 50_000 {
            return Err("window must be from 1 to 50000".into());
        }
        let times = [self.ack_wait_seconds, self.timeout_seconds, self.lease_seconds];
        if times.contains(&0) {
            return Err("ackWaitSeconds, timeoutSeconds and leaseSeconds must not be zero".into());
        }
        if self.ownership_ttl_seconds < 2 {
            return Err("ownershipTtlSeconds must be at least 2".into());
        }
        Ok(())
    }

    /// The files that the settings name: relative to wherever the settings are.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.nkey_file.iter_mut().chain(&mut self.ca_file)
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        Duration::from_secs(self.ack_wait_seconds)
    }

    pub(crate) fn ownership_ttl(&self) -> Duration {
        Duration::from_secs(self.ownership_ttl_seconds)
    }

    pub(crate) fn longest_data(&self) -> Duration {
        Duration::from_secs(self.longest_data_seconds)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    pub(crate) fn lease_time(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    pub(crate) fn quota(&self) -> Usage {
        Usage {
            messages: self.tenant_messages.unwrap_or(u64::MAX),
            bytes: self.tenant_bytes.unwrap_or(u64::MAX),
        }
    }
}
