//! What a mail server of somebody else must manage with us, whichever it is: it hands mail to us,
//! and takes ours.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::client::Client;
use crate::home::{Home, Kind};
use crate::ledger::content;
use crate::load::SENDER;
use crate::process::PASSWORD;
use crate::sink::{Received, Sink};
use crate::{maildir, scenario, wait};

/// How long a peer may take for one message.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A server that relays all it takes.
pub trait Peer {
    /// Where it takes mail.
    fn address(&self) -> SocketAddr;

    /// What it has logged.
    fn log(&self) -> String;
}

/// Postrider with mailboxes in `local.test`, and routes to the peer.
pub async fn home(kind: Kind, dir: &Path, next_hop_port: u16) -> Result<Home> {
    let config = |data: &Path| scenario::config_for_port(next_hop_port, data);
    Home::start(kind, &dir.join("home"), config, ("local.test", &["alice", "bob"])).await
}

/// A message with the lines that go wrong: a dot alone, dots in front, long and empty lines.
fn message(token: &str) -> Vec<u8> {
    let long = "x".repeat(900);
    content(token, SENDER, &format!(".\r\n..\r\n.x\r\n{long}\r\n\r\n\r\nend"))
}

/// The peer takes messages from a client and hands them to the Postrider of [`home`], which says
/// that they came by `protocol`.
pub async fn hands_to_us(peer: &impl Peer, home: &Home, protocol: &str) -> Result<()> {
    let mut client = Client::connect(peer.address()).await?;
    client.command("EHLO client.test", 250).await?;
    let recipients = ["bob@local.test", "alice@local.test"];
    let sent = message("P1");
    let reply = client.transaction("sender@remote.test", &recipients, &sent).await?;
    ensure!(reply.code == 250, "the peer said {reply:?}");
    let found = wait::until("the message in two mailboxes", LIMIT, async || {
        let found = maildir::messages(&home.mda().dir().join("data/mail")).ok()?;
        (found.len() == 2).then_some(found)
    })
    .await;
    let found = found.map_err(|error| error.context(peer.log()))?;
    let stored = String::from_utf8(std::fs::read(&found[0])?)?;
    let sent_body = sent.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &sent[at..]);
    let sent_body = std::str::from_utf8(sent_body.unwrap_or_default())?;
    ensure!(stored.ends_with(sent_body), "the body was changed: {stored}");
    ensure!(stored.contains(&format!(" with {protocol}\r\n")), "not {protocol}: {stored}");
    ensure!(stored.starts_with("Return-Path: <sender@remote.test>\r\n"), "{stored}");

    let reply = client.transaction("sender@remote.test", &["nobody@local.test"], &sent).await?;
    ensure!(reply.code == 250, "the peer said {reply:?}");
    wait::until("the peer to hear of a refusal", LIMIT, async || {
        peer.log().contains("550 5.1.1").then_some(())
    })
    .await
    .map_err(|error| error.context(peer.log()))
}

/// A user of ours sends a message that the peer relays to the sink, which finds `words` of the
/// peer's in it.
pub async fn takes_from_us(peer: &impl Peer, home: &Home, sink: &Sink, words: &str) -> Result<()> {
    let submission = home.ingress().address("submission");
    let mut client = Client::submission(submission, SENDER, PASSWORD).await?;
    let sent = message("P2");
    let recipients = ["x@remote.test", "y@remote.test", "z@other.test"];
    let reply = client.transaction(SENDER, &recipients, &sent).await?;
    ensure!(reply.code == 250, "{reply:?}");
    let received = wait::until("the message at the sink", LIMIT, async || {
        let received = sink.received();
        let recipients: usize = received.iter().map(|r| r.recipients.len()).sum();
        (recipients == 3).then_some(received)
    })
    .await
    .map_err(|error| error.context(peer.log()))?;
    for each in &received {
        check_relayed(each, &sent, words)?;
    }
    Ok(())
}

fn check_relayed(received: &Received, sent: &[u8], words: &str) -> Result<()> {
    let text = std::str::from_utf8(&received.content)?;
    ensure!(text.ends_with(std::str::from_utf8(sent)?), "the content was changed: {text}");
    ensure!(received.reverse_path == SENDER, "{received:?}");
    ensure!(text.contains(words), "the peer did not write {words:?}: {text}");
    ensure!(text.contains("\r\nDate: ") && text.contains("\r\nMessage-ID: "), "{text}");
    Ok(())
}

/// Writes `cert.pem` and `key.pem` for a peer into `dir`, where its own user can read them.
pub fn write_certificate(dir: &Path, name: &str) -> Result<()> {
    std::fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    std::fs::write(dir.join("cert.pem"), made.cert.pem())?;
    Ok(std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem())?)
}
