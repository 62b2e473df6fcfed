//! Clients that keep a process busy and book every answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::ledger::{Accepted, Destiny, Ledger, content};
use crate::process::PASSWORD;

/// The hosted mailbox that sends, and that DSNs come back to.
pub const SENDER: &str = "alice@local.test";

/// Before a client that was cut off comes again.
const RECONNECT: Duration = Duration::from_millis(50);

/// What all clients of a run share.
#[derive(Debug, Default)]
pub struct Books {
    pub ledger: Mutex<Ledger>,
    /// Transactions between the final dot and its reply.
    pub in_flight: AtomicUsize,
    stop: AtomicBool,
    next_token: AtomicUsize,
}

impl Books {
    /// How many messages were answered `250` so far.
    pub fn accepted(&self) -> usize {
        self.ledger.lock().expect("no client panics holding it").len()
    }
}

/// Clients that send until stopped; who is cut off comes again.
pub struct Load {
    books: Arc<Books>,
    clients: JoinSet<()>,
}

impl Load {
    /// `sessions` clients, logged in as [`SENDER`], seeded from `seed`.
    pub fn start(books: &Arc<Books>, address: SocketAddr, sessions: usize, seed: u64) -> Self {
        books.stop.store(false, Ordering::SeqCst);
        let mut clients = JoinSet::new();
        for n in 0..sessions {
            let books = Arc::clone(books);
            let mut rng = StdRng::seed_from_u64(seed.wrapping_add(n as u64));
            clients.spawn(async move {
                while !books.stop.load(Ordering::SeqCst) {
                    // The process may be killed under its clients, and ends sessions that ask for
                    // too much while it cannot store: what was not answered is not booked.
                    let _ = converse(&books, address, &mut rng).await;
                    tokio::time::sleep(RECONNECT).await;
                }
            });
        }
        Self { books: Arc::clone(books), clients }
    }

    /// Lets every client finish its transaction.
    pub async fn stop(mut self) {
        self.books.stop.store(true, Ordering::SeqCst);
        while self.clients.join_next().await.is_some() {}
    }
}

/// One session, until stopped.
async fn converse(books: &Books, address: SocketAddr, rng: &mut StdRng) -> Result<()> {
    let mut client = Client::submission(address, SENDER, PASSWORD).await?;
    while !books.stop.load(Ordering::SeqCst) {
        send_one(books, &mut client, rng).await?;
    }
    client.command("QUIT", 221).await?;
    Ok(())
}

async fn send_one(books: &Books, client: &mut Client, rng: &mut StdRng) -> Result<()> {
    let n = books.next_token.fetch_add(1, Ordering::SeqCst);
    let token = format!("T{n:07}");
    let (destiny, recipient) = match n % 8 {
        0 => (Destiny::Bounced, format!("refuse-{n}@remote{}.test", n % 5)),
        1 if n % 40 == 1 => (Destiny::DoubleBounced, format!("refuse-{n}@remote.test")),
        2 | 3 => (Destiny::Stored, "bob@local.test".to_owned()),
        4 => (Destiny::Relayed, format!("defer-{n}@remote{}.test", n % 5)),
        _ => (Destiny::Relayed, format!("user-{n}@remote{}.test", n % 5)),
    };
    let reverse_path = if destiny == Destiny::DoubleBounced { "" } else { SENDER };
    let lines = if n % 50 == 7 { 40_000 } else { rng.random_range(1..300) };
    let body = format!("{token} {}", ".line of a body\r\n".repeat(lines).trim_end());
    for line in [format!("MAIL FROM:<{reverse_path}>"), format!("RCPT TO:<{recipient}>")] {
        client.command(&line, 250).await?;
    }
    client.send(b"DATA\r\n").await?;
    let reply = client.reply().await?;
    if (400..500).contains(&reply.code) {
        // The queue is full or sick: this message is not accepted, the next may be.
        client.command("RSET", 250).await?;
        return Ok(());
    }
    anyhow::ensure!(reply.code == 354, "DATA was answered {}", reply.text);
    books.in_flight.fetch_add(1, Ordering::SeqCst);
    let sent = client.send(&crate::client::dot_stuffed(&content(&token, SENDER, &body))).await;
    let reply = match sent {
        Ok(()) => client.reply().await,
        Err(error) => Err(error),
    };
    books.in_flight.fetch_sub(1, Ordering::SeqCst);
    let reply = reply?;
    if reply.code == 250 {
        let queue_id = reply.text.split_whitespace().last().context("no queue id")?.to_owned();
        let accepted = Accepted { destiny, queue_id, body };
        books.ledger.lock().expect("no client panics holding it").accept(token, accepted);
    }
    Ok(())
}
