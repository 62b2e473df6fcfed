//! Real nats-servers with JetStream, one or a cluster, each in a directory of its own that holds
//! its configuration, its log and its store.
//!
//! They sync before they acknowledge, as the queue demands, unless told otherwise. Ports are kept
//! over restarts.

mod cluster;
mod monitor;
mod server;
pub mod wires;

use std::time::Duration;

pub use cluster::Cluster;
pub use monitor::Monitor;
pub use server::Server;

/// From the start of a process to JetStream's readiness.
const START_MAX: Duration = Duration::from_secs(60);

/// What tests choose about a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `jetstream.max_file_store`.
    pub file_store_bytes_max: u64,
    /// `jetstream.sync_interval`; the queue wants `always`.
    pub sync_interval: &'static str,
    /// Lines added to the configuration: accounts, users, TLS.
    pub more: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { file_store_bytes_max: 8 << 30, sync_interval: "always", more: String::new() }
    }
}
