//! Full mailboxes in one process: their mail is refused at RCPT until their owners have made room.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::process::Postrider;
use tests::quota::{self, Inbox, shown};
use tests::sink::Sink;
use tests::{scenario, wait};

const ALICE: &str = "alice@local.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_mailboxes_are_refused_until_they_have_room() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let data = dir.path().join("data");
    let mut postrider = Postrider::new(&dir.path().join("etc"), &scenario::config(&sink, &data))?;
    quota::write_domain(&postrider)?;
    postrider.start().await?;
    let relay = postrider.address("relay");
    let alice = Inbox::find(ALICE, relay, &postrider).await?;
    let bob = Inbox::find("bob@local.test", relay, &postrider).await?;
    quota::ensure_opaque(&alice.directory, &data.join("mail"))?;

    alice.fill(452, "4.2.2").await?;
    bob.until_rcpt(250).await?;
    bob.fill(552, "5.2.2").await?;
    let full = shown(&postrider, "Alice+x@local.test").await?;
    ensure!(full["address"] == ALICE && full["messages"] == 2, "{full}");
    ensure!(full["usedBytes"].as_u64() > full["quotaBytes"].as_u64(), "{full}");
    let text = postrider.cli(&["domain", "mailbox", ALICE]).await?;
    ensure!(text.contains("quota       65536 octets, then 452 at RCPT\n"), "{text}");
    ensure!(text.contains(" octets in 2 messages, full\n"), "{text}");
    let unknown = postrider.cli(&["domain", "mailbox", "postmaster@local.test"]).await;
    let error = unknown.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("postmaster@local.test is no mailbox"), "{error}");

    // A new process looks for itself.
    postrider.stop(Duration::from_secs(30)).await?;
    postrider.start().await?;
    let relay = postrider.address("relay");
    let (alice, bob) = (Inbox { relay, ..alice }, Inbox { relay, ..bob });
    alice.until_rcpt(452).await?;
    bob.until_rcpt(552).await?;

    alice.empty()?;
    alice.take_again().await?;
    bob.until_rcpt(552).await?;
    bob.empty()?;
    bob.take_again().await?;
    let events = ["mailbox_full", "mailbox_has_room"];
    wait::until("log lines", Duration::from_secs(10), async || {
        let log = postrider.log().ok()?;
        let has = |event: &&str| log.iter().any(|line| line.to_string().contains(*event));
        events.iter().all(has).then_some(())
    })
    .await?;
    ensure!(sink.count() == 0, "a full mailbox bounced mail");
    Ok(())
}
