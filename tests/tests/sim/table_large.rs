//! A domain table of many mailboxes in one process, from files: what it takes to read, to keep and
//! to ask.
//!
//! 20,000 mailboxes in 200 domains, each with a password; with `--long` a million in 10,000, and
//! `docs/reports/large-table.md` has the figures.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::crowd::{self, MAILBOXES};
use tests::memory::{self, mib};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{scenario, wait};

/// What the process has anyway, the memory for checking a password included.
const PROCESS: u64 = 56 << 20;
/// For each mailbox: 240 MB for a million.
const MAILBOX_OCTETS: u64 = 240;
const RESIDENT_MAX: u64 = 300_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_mailboxes_in_one_process_are_small_and_quick() -> Result<()> {
    let domains = if scenario::is_long() { 10_000 } else { 200 };
    let all = domains * MAILBOXES;
    let limit = Duration::from_secs(120);
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let config = scenario::config(&sink, &dir.path().join("data"));
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    for n in 0..domains {
        crowd::write_domain(postrider.dir(), n, MAILBOXES)?;
    }
    let begun = Instant::now();
    postrider.start().await?;
    let pid = postrider.pid();
    let ready = begun.elapsed();
    let foreseen = PROCESS + all as u64 * MAILBOX_OCTETS;
    let resident = memory::until_below(pid, foreseen).await?;
    println!(
        "{all} mailboxes in {domains} domains: ready after {ready:.1?}, {} MiB, at most {} MiB",
        mib(resident),
        mib(memory::peak(pid)?)
    );

    let relay = postrider.address("relay");
    let known = crowd::ask(relay, |n| crowd::mailbox(n, domains), 250).await?;
    let unknown = crowd::ask(relay, |n| crowd::stranger(n, domains), 550).await?;
    let same = crowd::ask(relay, |_| "user0@d0.test".to_owned(), 250).await?;
    println!("RCPT p50 and p99: known {known:?}, unknown {unknown:?}; always the same {same:?}");
    let login = crowd::mailbox(all / 3, domains);
    Client::submission(postrider.address("submission"), &login, PASSWORD).await?;

    crowd::write_domain(postrider.dir(), 3, MAILBOXES + 1)?;
    let begun = Instant::now();
    wait::until("one mailbox more", limit, async || {
        let mut client = Client::connect(relay).await.ok()?;
        client.command("EHLO client.test", 250).await.ok()?;
        client.command("MAIL FROM:<a@elsewhere.test>", 250).await.ok()?;
        let newest = format!("RCPT TO:<user{MAILBOXES}@d3.test>");
        client.command(&newest, 250).await.ok().map(drop)
    })
    .await?;
    println!("one more: after {:.1?}, at most {} MiB", begun.elapsed(), mib(memory::peak(pid)?));
    let after = memory::until_below(pid, foreseen).await?;
    println!("and then {} MiB", mib(after));

    ensure!(known[0] < same[0] * 5 + Duration::from_millis(1), "many mailboxes are slow");
    if scenario::is_long() {
        ensure!(resident < RESIDENT_MAX && after < RESIDENT_MAX, "{resident} and {after} octets");
        ensure!(known[1] < Duration::from_millis(5), "known: {known:?}");
        ensure!(unknown[1] < Duration::from_millis(5), "unknown: {unknown:?}");
    }
    postrider.kill().await
}
