//! A full disk: new mail is told `452` and nothing that was accepted is lost; when there is room
//! again, mail flows by itself. Needs root and a loop device.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::ledger::{Accepted, Destiny, content};
use tests::load::{Books, SENDER};
use tests::powercut::{Disk, Order};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{scenario, wait};

/// Sends one message; gives the code that answered it.
async fn send(books: &Books, client: &mut Client, n: usize) -> Result<u16> {
    let token = format!("T{n:07}");
    let body = format!("{token} {}", "x".repeat(200_000));
    let recipient = format!("user-{n}@remote.test");
    let message = content(&token, SENDER, &body);
    let reply = client.transaction(SENDER, &[&recipient], &message).await?;
    if reply.code == 250 {
        let queue_id = reply.text.split_whitespace().last().context("no queue id")?.to_owned();
        let accepted = Accepted { destiny: Destiny::Relayed, queue_id, body };
        books.ledger.lock().expect("one client only").accept(token, accepted);
    }
    Ok(reply.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = Disk::prepare(&dir.path().join("disk"), 512, Order::Any)?;
    let data_dir = disk.mount_point().join("data");
    let sink = Sink::start().await?;
    let mut postrider =
        Postrider::new(&dir.path().join("etc"), &scenario::config(&sink, &data_dir))?;
    postrider.write_domain("local.test", &["alice"])?;
    postrider.start().await?;
    let books = Books::default();
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    ensure!(send(&books, &mut client, 0).await? == 250, "an empty disk takes mail");

    // Something else fills the disk.
    let filler = disk.mount_point().join("filler");
    fill(&filler)?;
    let mut n = 1;
    let code = loop {
        let code = send(&books, &mut client, n).await?;
        n += 1;
        if code != 250 || n > 4_000 {
            break code;
        }
    };
    ensure!(code == 452, "a full disk answered {code} after {n} messages");

    fs::remove_file(&filler)?;
    let limit = Duration::from_secs(60);
    wait::until("mail to be accepted again", limit, async || {
        n += 1;
        (send(&books, &mut client, n).await.ok()? == 250).then_some(())
    })
    .await?;
    let balance = scenario::settle(&[&postrider], &data_dir, &sink, &books, &[], limit).await?;
    println!("{n} messages sent; {balance}");
    ensure!(balance.is_clean(), "{balance}");
    ensure!(!postrider.has_exited(), "a full disk ended the process");
    Ok(())
}

/// Writes until there is no room.
fn fill(path: &std::path::Path) -> Result<()> {
    use std::io::Write;
    let mut file = fs::File::create(path)?;
    let chunk = vec![0x55; 1 << 20];
    while file.write_all(&chunk).is_ok() {}
    let small = [0x55; 4096];
    while file.write_all(&small).is_ok() {}
    file.sync_all().ok();
    Ok(())
}
