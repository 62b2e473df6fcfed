//! A TCP connection between two processes that the test can interrupt, or tamper with.
//!
//! A port on loopback, from which each connection goes on to its target. While it is cut nothing
//! passes, in neither direction, and no end of a connection is told: as if the packets were
//! dropped. What was under way arrives when it is healed, as TCP would repeat it.
//!
//! Chosen over network namespaces: it needs no root, leaves nothing on the machine when a test is
//! killed, cuts one connection between two processes and not the others, and the same place serves
//! to tamper with what NATS is told ([`Tampering`]). What it cannot do is to lose a handshake:
//! connections that are opened during a cut are accepted and then silent.

mod nats_frame;
mod tamper;

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

pub use tamper::Tampering;

/// Read at once, and held back by a cut.
const CHUNK: usize = 64 << 10;

/// A running forwarder; dropped, its connections end.
pub struct Forwarder {
    address: SocketAddr,
    open: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Forwarder {
    /// From a port of its own to `target`, where nobody needs to listen yet.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::tampering(target, None).await
    }

    /// The same, with what clients send to a nats-server changed on the way.
    pub async fn tampering(target: SocketAddr, tampering: Option<Tampering>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let gate = Gate(is_open.clone());
                connections.spawn(async move {
                    // An end that goes away is a case of the tests, not a failure of ours.
                    let _ = connect(client, target, gate, tampering).await;
                });
            }
        });
        Ok(Self { address, open, _accepting: accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    pub fn heal(&self) {
        self.open.send_replace(true);
    }
}

/// Whether something may pass.
#[derive(Clone)]
struct Gate(watch::Receiver<bool>);

impl Gate {
    async fn passed(&mut self) -> Result<()> {
        self.0.wait_for(|open| *open).await?;
        Ok(())
    }
}

async fn connect(
    client: TcpStream,
    target: SocketAddr,
    mut gate: Gate,
    tampering: Option<Tampering>,
) -> Result<()> {
    gate.passed().await?;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    if let Some(tampering) = tampering {
        let to_client = Mutex::new(to_client);
        let own = tamper::Own::default();
        let forth =
            tamper::forth(tampering, from_client, to_server, &to_client, &own, gate.clone());
        let back = tamper::back(tampering, from_server, &to_client, &own, gate);
        // Dropped with all halves: the end of one direction is the end of the connection.
        tokio::select! { ended = forth => ended, ended = back => ended }
    } else {
        let forth = pump(from_client, to_server, gate.clone());
        let back = pump(from_server, to_client, gate);
        tokio::select! { ended = forth => ended, ended = back => ended }
    }
}

/// Until the end of the connection, of which the other end hears when the gate is open.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: Gate) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await;
        gate.passed().await?;
        match read? {
            0 => return Ok(()),
            length => to.write_all(&chunk[..length]).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Long enough for a loopback, short enough for a test.
    const MOMENT: Duration = Duration::from_millis(100);

    async fn pair() -> Result<(Forwarder, TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let forwarder = Forwarder::start(listener.local_addr()?).await?;
        let client = TcpStream::connect(forwarder.address()).await?;
        let (server, _) = listener.accept().await?;
        Ok((forwarder, client, server))
    }

    #[tokio::test]
    async fn a_cut_holds_what_is_sent_until_it_is_healed() -> Result<()> {
        let (forwarder, mut client, mut server) = pair().await?;
        forwarder.cut();
        client.write_all(b"held").await?;
        let mut octets = [0; 4];
        let early = tokio::time::timeout(MOMENT, server.read_exact(&mut octets)).await;
        assert!(early.is_err(), "a cut passes octets");
        forwarder.heal();
        server.read_exact(&mut octets).await?;
        assert_eq!(&octets, b"held");
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_hides_the_end_of_a_connection() -> Result<()> {
        let (forwarder, client, mut server) = pair().await?;
        forwarder.cut();
        drop(client);
        let mut octets = [0; 4];
        let early = tokio::time::timeout(MOMENT, server.read(&mut octets)).await;
        assert!(early.is_err(), "a cut passes the end");
        forwarder.heal();
        assert_eq!(server.read(&mut octets).await?, 0);
        Ok(())
    }
}
