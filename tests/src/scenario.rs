//! What the crash tests share: one configuration, one sink's verdict, one way to balance the books.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ledger::{Arrivals, Balance};
use crate::load::Books;
use crate::maildir;
use crate::process::Postrider;
use crate::sink::{Sink, Verdict};
use crate::wait;

/// Of so many messages it is told what became of them.
const STORIES: usize = 5;

/// Everything remote goes to `sink`; deferred mail is tried again after a second.
pub fn config(sink: &Sink, data_dir: &Path) -> String {
    config_for_port(sink.address().port(), data_dir)
}

/// The same with another next hop on loopback.
pub fn config_for_port(port: u16, data_dir: &Path) -> String {
    format!(
        "hostname: mx.local.test\n\
         dataDir: {}\n\
         ingress:\n  listeners:\n  - {{kind: relay, addresses: [\"127.0.0.1:0\"]}}\n  \
         - {{kind: submission, addresses: [\"127.0.0.1:0\"]}}\n\
         delivery:\n  allowPrivateAddresses: true\n  \
         retry: {{intervalsSeconds: [1], repeatSeconds: 1}}\n  \
         routes:\n  - {{domain: \"*\", host: \"127.0.0.1\", port: {port}}}\n\
         http:\n  address: \"127.0.0.1:0\"\n",
        data_dir.display(),
    )
}

/// Refuses `refuse-*` for good, and `defer-*` the first time.
pub fn verdict() -> Verdict {
    let seen: Mutex<HashSet<String>> = Mutex::default();
    std::sync::Arc::new(move |recipient| {
        if recipient.starts_with("refuse-") {
            return Some("550 5.1.1 no such user");
        }
        let first = recipient.starts_with("defer-")
            && seen.lock().expect("no panic holding it").insert(recipient.to_owned());
        first.then_some("451 4.7.1 come back later")
    })
}

/// Whether this is `cargo xtask test --long`.
pub fn is_long() -> bool {
    std::env::var_os("POSTRIDER_LONG").is_some()
}

/// `$POSTRIDER_SEED`, or a new one; print it, so that the run can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var_os("POSTRIDER_SEED");
    given.and_then(|seed| seed.to_str()?.parse().ok()).unwrap_or_else(rand::random)
}

/// Waits until the books balance, or gives the last balance when they do not within `limit`.
pub async fn settle(
    processes: &[&Postrider],
    data_dir: &Path,
    sink: &Sink,
    books: &Books,
    kills: &[Instant],
    limit: Duration,
) -> Result<Balance> {
    let mut last = None;
    let mut stories = String::new();
    let clean = wait::until("every accepted message", limit, async || {
        let paths = maildir::messages(&data_dir.join("mail")).ok()?;
        let mailboxes: Vec<Vec<u8>> =
            paths.iter().filter_map(|path| std::fs::read(path).ok()).collect();
        let received = sink.received();
        let logs: Result<Vec<_>> = processes.iter().map(|process| process.log()).collect();
        let log = logs.ok()?.concat();
        let (sink, mailboxes) = (&received[..], &mailboxes[..]);
        let arrivals = Arrivals { sink, mailboxes, log: &log, kills, unsettled: &[] };
        let ledger = books.ledger.lock().expect("no panic holding it");
        let balance = ledger.balance(&arrivals);
        let wrong = balance.lost.iter().chain(&balance.unexplained).take(STORIES);
        stories = wrong.map(|token| ledger.story(token, &arrivals)).collect();
        last = Some(balance.clone());
        balance.is_clean().then_some(balance)
    })
    .await;
    if clean.is_err() {
        println!("{stories}");
    }
    clean.or_else(|error| last.ok_or(error))
}
