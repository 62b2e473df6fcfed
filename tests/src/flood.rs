//! Many small messages as fast as they are accepted.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::client::{Client, dot_stuffed};
use crate::load::SENDER;
use crate::process::PASSWORD;

/// The forward-paths of the message with this number.
pub type Recipients = Arc<dyn Fn(usize) -> Vec<String> + Send + Sync>;

/// The forward-paths and the content of the message with this number.
pub type Messages = Arc<dyn Fn(usize) -> (Vec<String>, Vec<u8>) + Send + Sync>;

/// Sends small messages of these numbers over so many sessions; each must be answered `250`.
pub async fn send(
    address: SocketAddr,
    sessions: usize,
    numbers: Range<usize>,
    recipients: &Recipients,
) -> Result<()> {
    send_as(SENDER, address, sessions, numbers, recipients).await
}

/// The same by somebody else.
pub async fn send_as(
    login: &'static str,
    address: SocketAddr,
    sessions: usize,
    numbers: Range<usize>,
    recipients: &Recipients,
) -> Result<()> {
    let recipients = Arc::clone(recipients);
    let messages: Messages = Arc::new(move |number| {
        let content = format!("From: <{login}>\r\nSubject: {number}\r\n\r\nbody\r\n");
        (recipients(number), content.into_bytes())
    });
    send_messages(login, address, sessions, numbers, &messages).await
}

/// Sends the messages of these numbers over so many sessions; each must be answered `250`.
pub async fn send_messages(
    login: &'static str,
    address: SocketAddr,
    sessions: usize,
    numbers: Range<usize>,
    messages: &Messages,
) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(numbers.start));
    let mut clients = JoinSet::new();
    for _ in 0..sessions {
        let (next, messages) = (Arc::clone(&next), Arc::clone(messages));
        clients.spawn(async move {
            let mut client = Client::submission(address, login, PASSWORD).await?;
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= numbers.end {
                    return Ok(());
                }
                let (recipients, content) = messages(number);
                message(&mut client, &recipients, &content).await?;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        let sent: Result<()> = ended.context("a client panicked")?;
        sent?;
    }
    Ok(())
}

/// One transaction, its commands in one packet (RFC 2920 §3.1).
pub async fn message(client: &mut Client, recipients: &[String], content: &[u8]) -> Result<()> {
    let mut commands = format!("MAIL FROM:<{}>\r\n", client.login());
    for recipient in recipients {
        commands += &format!("RCPT TO:<{recipient}>\r\n");
    }
    client.send((commands + "DATA\r\n").as_bytes()).await?;
    for code in std::iter::repeat_n(250, recipients.len() + 1).chain([354]) {
        client.expect(code).await?;
    }
    client.send(&dot_stuffed(content)).await?;
    let reply = client.reply().await?;
    ensure!(reply.code == 250, "{}", reply.text);
    Ok(())
}
