//! Many connections to a real process, and what they cost it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tokio::net::{TcpSocket, TcpStream};

/// Connections from one address: below the server's limit per client.
const PER_ADDRESS: usize = 50;

/// Lets this process, and those it starts from now on, open so many files.
pub fn allow_files(count: usize) -> Result<()> {
    let status = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={count}:")])
        .status()
        .context("cannot run prlimit")?;
    ensure!(status.success(), "{count} open files are needed: raise the hard limit, `ulimit -Hn`");
    Ok(())
}

/// Connects as the `n`th of a crowd that comes from many addresses on loopback.
pub async fn connect(n: usize, server: SocketAddr) -> Result<TcpStream> {
    let address = n / PER_ADDRESS;
    let source = Ipv4Addr::new(127, 1, u8::try_from(address / 250)?, (address % 250) as u8 + 1);
    let socket = TcpSocket::new_v4()?;
    // Small, so that a client that does not read is noticed soon.
    socket.set_recv_buffer_size(4096)?;
    socket.bind(SocketAddr::from((source, 0)))?;
    Ok(socket.connect(server).await?)
}

/// The proportional set size of a process: its memory, with its share of what is shared.
pub fn pss_kib(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
