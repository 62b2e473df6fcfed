//! Who may send as whom, and by which of his passwords. In one process, and in roles.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::{Client, Reply};
use tests::home::{Home, Kind};
use tests::process::{PASSWORD, PASSWORD_HASH, domain_yaml};
use tests::scenario;
use tests::sink::Sink;

const LIMIT: Duration = Duration::from_secs(60);
const ALICE: &str = "alice@local.test";
const FILE: &str = "local.test.yaml";
/// Made elsewhere: without Dovecot's label, and with it.
const SHA512: (&str, &str) = (
    "battery staple",
    "$6$rounds=1000$postrider3$tEAbDEQOJmjAL6hWOwNxc4iyvLX8OCJ\
     uZHK8U03XNoP46F8ZsR1CRZPdxIZlxLVFGKTdAylu35GVqpcU/iTdN.",
);
const BCRYPT: (&str, &str) =
    ("paper clip", "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuOUf.w1LA..BoiymLLveiyGfgGX16n/q");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_in_one_process() -> Result<()> {
    identities(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_in_roles() -> Result<()> {
    identities(Kind::Roles).await
}

async fn identities(kind: Kind) -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let config = |data: &Path| scenario::config(&sink, data);
    let domain = ("local.test", &["alice", "bob"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    let other = domain_yaml("other.test", &["olga"])?.replace("name: d}", "name: other}");
    home.change("other.test.yaml", &other).await?;
    home.change(FILE, &yaml(&[SHA512.1, BCRYPT.1])?).await?;
    let address = home.ingress().address("submission");
    who_may_send_as_whom(address).await?;

    // Any of the passwords lets in, and one can be revoked alone.
    for password in [PASSWORD, SHA512.0, BCRYPT.0] {
        Client::submission(address, ALICE, password).await?;
    }
    let mut open = Client::submission(address, ALICE, SHA512.0).await?;
    home.change(FILE, &yaml(&[BCRYPT.1])?).await?;
    let refused = Client::submission(address, ALICE, SHA512.0).await;
    let refused = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("535"), "{refused}");
    let reply = send(&mut open, ALICE, ALICE).await?;
    ensure!(reply.code == 421, "a session that was open: {}", reply.text);
    for password in [PASSWORD, BCRYPT.0] {
        Client::submission(address, ALICE, password).await?;
    }
    home.stop(LIMIT).await
}

/// Alice with more passwords and identities.
fn yaml(hashes: &[&str]) -> Result<String> {
    let mut passwords = format!("passwords:\n  - {{name: test, hash: \"{PASSWORD_HASH}\"}}\n");
    for (n, hash) in hashes.iter().enumerate() {
        passwords += &format!("  - {{name: other-{n}, hash: \"{hash}\"}}\n");
    }
    let plain = domain_yaml("local.test", &["alice", "bob"])?;
    let own = format!("passwords:\n  - {{name: test, hash: \"{PASSWORD_HASH}\"}}\n");
    ensure!(plain.contains(&own), "{plain}");
    let identities = "  identities: [sales@local.test, \"*@other.test\"]\n";
    let address = format!("address: {ALICE}\n");
    Ok(plain.replacen(&own, &passwords, 1).replace(&address, &(address.clone() + identities)))
}

async fn send(client: &mut Client, reverse_path: &str, from: &str) -> Result<Reply> {
    let message = format!("From: <{from}>\r\nSubject: x\r\n\r\nbody\r\n");
    let reply = client.transaction(reverse_path, &["friend@far.test"], message.as_bytes()).await?;
    if reply.code != 250 && reply.code != 421 {
        client.command("RSET", 250).await?;
    }
    Ok(reply)
}

async fn who_may_send_as_whom(address: SocketAddr) -> Result<()> {
    let mut client = Client::submission(address, ALICE, PASSWORD).await?;
    for (reverse_path, from, reply) in [
        (ALICE, ALICE, "250"),
        ("sales@local.test", "sales@local.test", "250"),
        ("anything@other.test", ALICE, "250"),
        (ALICE, "anything@other.test", "250"),
        ("bob@local.test", ALICE, "553 5.7.1"),
        ("x@elsewhere.test", ALICE, "553 5.7.1"),
        (ALICE, "bob@local.test", "550 5.7.1"),
        // Receipts go without a reverse-path, and yet not under another's name.
        ("", ALICE, "250"),
        ("", "sales@local.test", "250"),
        ("", "bob@local.test", "550 5.7.1"),
    ] {
        let said = send(&mut client, reverse_path, from).await?.text;
        ensure!(said.starts_with(reply), "<{reverse_path}>, From {from}: {said}");
    }
    Ok(())
}
