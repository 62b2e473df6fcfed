//! What lies in the mailboxes: mail for bob, and the DSNs that alice has got.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use super::accounts::{Accounts, Place};
use super::destinations::found;
use crate::maildir;

/// Mailboxes that are looked at again and again.
pub(super) struct Mailboxes {
    root: PathBuf,
    seen: HashSet<PathBuf>,
}

impl Mailboxes {
    /// Below the MDA's data directory.
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("mail"), seen: HashSet::new() }
    }

    /// Books what is new.
    pub(super) fn look(&mut self, accounts: &Accounts) -> Result<()> {
        for path in maildir::messages(&self.root)? {
            if !self.seen.contains(&path) {
                let content = std::fs::read(&path)?;
                book(&content, written(&path)?, accounts);
                self.seen.insert(path);
            }
        }
        Ok(())
    }
}

/// When a file was written.
fn written(path: &Path) -> Result<Instant> {
    let age = std::fs::metadata(path)?.modified()?.elapsed().unwrap_or_default();
    let now = Instant::now();
    Ok(now.checked_sub(age).unwrap_or(now))
}

fn book(content: &[u8], at: Instant, accounts: &Accounts) {
    let text = String::from_utf8_lossy(content);
    if !text.contains("report-type=delivery-status") {
        if let Some((token, arrival)) = found(Place::Mailbox, at, content) {
            accounts.arrive(token, "bob@local.test".to_owned(), arrival);
        }
        return;
    }
    let Some((token, arrival)) = found(Place::Report, at, content) else { return };
    for recipient in failed_recipients(&text) {
        accounts.arrive(token.clone(), recipient, arrival.clone());
    }
}

/// Recipients that a DSN says have failed (RFC 3464 §2.3).
fn failed_recipients(dsn: &str) -> Vec<String> {
    let mut failed = Vec::new();
    let mut recipient = None;
    for line in dsn.lines() {
        if let Some(address) = line.strip_prefix("Final-Recipient: rfc822;") {
            recipient = Some(address.trim().to_owned());
        } else if line.trim_end() == "Action: failed" {
            failed.extend(recipient.take());
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_are_bounces() {
        let dsn = "Final-Recipient: rfc822; a@x.test\r\nAction: failed\r\n\r\n\
                   Final-Recipient: rfc822; b@x.test\r\nAction: delayed\r\n";
        assert_eq!(failed_recipients(dsn), ["a@x.test"]);
    }
}
