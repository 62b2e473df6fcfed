//! Ports for what cannot choose its own, or must be there again after a restart.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use rand::RngExt;

/// Ports on loopback at which nobody listens.
///
/// Below the range of outgoing connections: one of those could take the port of a server that is
/// down and keep it from coming back.
pub fn free(count: usize) -> Result<Vec<u16>> {
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

/// An address on loopback at which nobody listens.
pub fn free_address() -> Result<SocketAddr> {
    let port = *free(1)?.first().context("no port")?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}
