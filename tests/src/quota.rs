//! A mailbox that fills, is refused at RCPT, is emptied, and takes mail again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::process::{Postrider, domain_yaml};
use crate::{maildir, wait};

const LIMIT: Duration = Duration::from_secs(30);
const QUOTA: u64 = 65_536;
/// A message of which two are more than the quota.
const LARGE: usize = 40_000;

/// Hosts `local.test` at a process that is not running: two mailboxes with a quota. The senders of
/// bob's mail are to hear at once that he is full.
pub fn write_domain(process: &Postrider) -> Result<()> {
    let yaml = domain_yaml("local.test", &["alice", "bob"])?;
    let domain = "  domain: local.test\n";
    let quota = format!("{domain}  quota: {{bytes: {QUOTA}}}\n");
    let bob = "  address: bob@local.test\n";
    let yaml = yaml.replacen(domain, &quota, 1);
    let yaml = yaml.replacen(bob, &format!("{bob}  quota: {{onFull: reject}}\n"), 1);
    Ok(fs::write(process.dir().join("domains/local.test.yaml"), yaml)?)
}

/// A mailbox, seen from outside.
pub struct Inbox<'a> {
    pub address: &'a str,
    pub relay: SocketAddr,
    /// Its Maildir.
    pub directory: PathBuf,
}

impl<'a> Inbox<'a> {
    /// As the command line finds it.
    pub async fn find(address: &'a str, relay: SocketAddr, mda: &Postrider) -> Result<Self> {
        let shown = shown(mda, address).await?;
        let directory = shown["directory"].as_str().context("no directory")?.into();
        Ok(Self { address, relay, directory })
    }

    async fn send(&self, octets: usize) -> Result<()> {
        let mut client = Client::connect(self.relay).await?;
        client.command("EHLO client.test", 250).await?;
        let body = ("x".repeat(98) + "\r\n").repeat(octets / 100);
        let content = format!("Subject: x\r\n\r\n{body}");
        let sender = "a@elsewhere.test";
        let reply = client.transaction(sender, &[self.address], content.as_bytes()).await?;
        ensure!(reply.code == 250, "{}", reply.text);
        Ok(())
    }

    pub fn messages(&self) -> Result<Vec<PathBuf>> {
        maildir::messages(&self.directory)
    }

    async fn until_stored(&self, messages: usize) -> Result<()> {
        wait::until("messages in the mailbox", LIMIT, async || {
            (self.messages().ok()?.len() == messages).then_some(())
        })
        .await
    }

    /// Waits for a reply to RCPT.
    pub async fn until_rcpt(&self, code: u16) -> Result<()> {
        wait::until(&format!("{code} for {}", self.address), LIMIT, async || {
            (Client::rcpt(self.relay, self.address).await.ok()? == code).then_some(())
        })
        .await
    }

    /// Waits for a reply to RCPT where a second message of that size was declared.
    async fn until_too_large(&self, code: u16) -> Result<()> {
        wait::until(&format!("{code} for a large message"), LIMIT, async || {
            let mut client = Client::connect(self.relay).await.ok()?;
            client.command("EHLO client.test", 250).await.ok()?;
            client.command(&format!("MAIL FROM:<> SIZE={LARGE}"), 250).await.ok()?;
            client.command(&format!("RCPT TO:<{}>", self.address), code).await.ok().map(drop)
        })
        .await
    }

    /// Sends until it is full: what was accepted is stored, and `code` with `status` is the reply
    /// from then on.
    pub async fn fill(&self, code: u16, status: &str) -> Result<()> {
        self.send(LARGE).await?;
        self.until_stored(1).await?;
        self.until_too_large(code).await?;
        self.until_rcpt(250).await?;
        self.send(LARGE).await?;
        self.until_stored(2).await?;
        self.until_rcpt(code).await?;
        let mut client = Client::connect(self.relay).await?;
        client.command("EHLO client.test", 250).await?;
        client.command("MAIL FROM:<a@elsewhere.test>", 250).await?;
        let rcpt = format!("RCPT TO:<{}>", self.address.replace('@', "+tag@"));
        let reply = client.command(&rcpt, code).await?;
        ensure!(reply.text.starts_with(&format!("{code} {status} ")), "{}", reply.text);
        Ok(())
    }

    /// What its owner does by IMAP.
    pub fn empty(&self) -> Result<()> {
        for message in self.messages()? {
            fs::remove_file(message)?;
        }
        Ok(())
    }

    /// Waits until its mail is accepted, and finds it.
    pub async fn take_again(&self) -> Result<()> {
        self.until_rcpt(250).await?;
        self.send(100).await?;
        self.until_stored(1).await
    }
}

/// What `postrider domain mailbox` shows at a process that has the mailboxes.
pub async fn shown(mda: &Postrider, address: &str) -> Result<Value> {
    let shown = mda.cli(&["domain", "mailbox", address, "--output", "json"]).await?;
    Ok(serde_json::from_str(&shown)?)
}

/// That the directory is an id below the root, and tells nothing of the address.
pub fn ensure_opaque(directory: &Path, root: &Path) -> Result<()> {
    let below = directory.strip_prefix(root)?;
    let parts: Vec<_> = below.iter().filter_map(|part| part.to_str()).collect();
    ensure!(parts.len() == 2 && parts[1].starts_with(parts[0]), "{below:?}");
    ensure!(parts.concat().bytes().all(|b| b.is_ascii_hexdigit()), "{below:?}");
    Ok(())
}
