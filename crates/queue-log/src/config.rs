//! What an operator may set.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use queue::schedule::Usage;

use crate::segment::DATA_START;

/// Settings of the embedded log. Sizes in octets, times in seconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// A file of the log. Smaller ones are freed sooner, larger ones synced with less ado.
    pub segment_bytes: u32,
    /// A larger body gets a file of its own.
    pub inline_body_bytes: u32,
    /// Memory for the content of mail that waits for its first attempt.
    pub cache_bytes: u64,
    /// The store's size at which mail from outside is refused; none: the file system's.
    pub max_bytes: Option<u64>,
    /// What mail from outside leaves free on the file system, besides the next file of the log: the
    /// reserve for DSNs, forwards and outcomes.
    pub min_free_bytes: u64,
    /// How long a lease lasts unless extended: longer than what lies between two extensions.
    pub lease_seconds: u64,
    /// Messages that a tenant may have in the queue.
    pub tenant_messages: Option<u64>,
    /// Octets of content that a tenant may have in the queue.
    pub tenant_bytes: Option<u64>,
    /// Segments after which the index is saved: what is read again after a crash.
    pub checkpoint_segments: u32,
    /// The longest that the ingress lets a message take from its first octet to its last. Files
    /// that nothing refers to are deleted when twice as old. Set from the ingress' own limit.
    #[serde(skip, default = "longest_data_seconds")]
    pub longest_data_seconds: u64,
}

fn longest_data_seconds() -> u64 {
    Config::default().longest_data_seconds
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            inline_body_bytes: 1 << 20,
            cache_bytes: 64 << 20,
            max_bytes: None,
            min_free_bytes: 256 << 20,
            lease_seconds: 20 * 60,
            tenant_messages: None,
            tenant_bytes: None,
            checkpoint_segments: 4,
            longest_data_seconds: 2 * 3600,
        }
    }
}

impl Config {
    /// What is wrong with the settings, in words for an operator.
    pub fn validate(&self) -> Result<(), String> {
        let segment_min = DATA_START + (64 << 10);
        if self.segment_bytes < segment_min || self.segment_bytes > 1 << 30 {
            return Err(format!("segmentBytes must be from {segment_min} to {}", 1 << 30));
        }
        if self.inline_body_bytes > self.segment_bytes / 4 {
            return Err("inlineBodyBytes must be at most a quarter of segmentBytes".into());
        }
        if self.lease_seconds == 0
            || self.longest_data_seconds == 0
            || self.checkpoint_segments == 0
        {
            return Err(
                "leaseSeconds, longestDataSeconds and checkpointSegments must not be zero".into()
            );
        }
        Ok(())
    }

    pub(crate) fn lease_time(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    pub(crate) fn orphan_age(&self) -> Duration {
        Duration::from_secs(self.longest_data_seconds.saturating_mul(2))
    }

    pub(crate) fn quota(&self) -> Usage {
        Usage {
            messages: self.tenant_messages.unwrap_or(u64::MAX),
            bytes: self.tenant_bytes.unwrap_or(u64::MAX),
        }
    }
}
