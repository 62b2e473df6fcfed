//! Real nats-servers with JetStream, one or a cluster, each in a directory of its own that holds
//! its configuration, its log and its store.
//!
//! They sync before they acknowledge, as the queue demands, unless told otherwise. Ports are kept
//! over restarts.

mod cluster;
mod monitor;
mod server;
pub mod wires;

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngExt;

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

/// Ports on loopback at which nobody listens.
///
/// Below the range of outgoing connections: one of those could take the port of a server that is
/// down and keep it from coming back.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next().and_then(|low| low.parse().ok());
    let end = outgoing.filter(|low| *low > 12_000).unwrap_or(32_768);
    let mut held = Vec::with_capacity(count);
    for _ in 0..1000 {
        if held.len() == count {
            break;
        }
        let port = rand::rng().random_range(10_000..end);
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok());
    }
    ensure!(held.len() == count, "no free ports on loopback");
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
