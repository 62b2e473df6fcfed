//! A full disk under the mailboxes: accepted mail waits in the queue, nothing bounces, and when
//! there is room again all of it is stored. Needs root and a loop device.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::powercut::{Disk, Order};
use tests::process::Postrider;
use tests::sink::Sink;
use tests::{maildir, scenario, wait};

const MESSAGES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_waits_for_room() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = Disk::prepare(&dir.path().join("disk"), 64, Order::Any)?;
    let sink = Sink::start().await?;
    let mail = disk.mount_point().join("mail");
    let config = scenario::config(&sink, &dir.path().join("data"))
        + &format!("mda:\n  directory: {}\n", mail.display());
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice"])?;
    postrider.start().await?;
    let filler = disk.mount_point().join("filler");
    fill(&filler)?;

    let mut client = Client::connect(postrider.address("relay")).await?;
    client.command("EHLO client.test", 250).await?;
    for n in 0..MESSAGES {
        let message = format!("Subject: {n}\r\n\r\n{}\r\n", "x".repeat(900));
        let recipients = ["alice@local.test"];
        let reply = client.transaction("a@remote.test", &recipients, message.as_bytes()).await?;
        ensure!(reply.code == 250, "message {n} was answered {} {}", reply.code, reply.text);
    }
    wait::until("a deferral for want of room", Duration::from_secs(20), async || {
        let log = postrider.log().ok()?;
        let deferred = log.iter().any(|line| line.to_string().contains("452 4.3.1"));
        deferred.then_some(())
    })
    .await?;
    ensure!(maildir::messages(&mail)?.is_empty(), "the disk was not full");

    fs::remove_file(&filler)?;
    wait::until("all mail in its mailbox", Duration::from_secs(60), async || {
        (maildir::messages(&mail).ok()?.len() == MESSAGES).then_some(())
    })
    .await?;
    let log = postrider.log()?;
    let bounced = log.iter().any(|line| line.to_string().contains("\"bounced\""));
    ensure!(!bounced && sink.count() == 0, "a full disk bounced mail");
    Ok(())
}

/// Writes until there is no room.
fn fill(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path)?;
    for size in [1 << 20, 4096] {
        while file.write_all(&vec![0x55; size]).is_ok() {}
    }
    file.sync_all()?;
    Ok(())
}
