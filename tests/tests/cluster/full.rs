//! A full store refuses with 452, drains, and accepts again; every sender of what bounced is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::process::PASSWORD;
use tests::sink::Sink;
use tests::{maildir, scenario, wait};

const LIMIT: Duration = Duration::from_secs(120);

/// The reply to the final dot, or to what was refused before.
async fn send(client: &mut Client, recipient: &str, body: &str) -> Result<String> {
    let content = format!("From: <{SENDER}>\r\nSubject: x\r\n\r\n{body}\r\n");
    let reply = client.transaction(SENDER, &[recipient], content.as_bytes()).await?;
    if reply.code != 250 {
        // Refused at DATA, the transaction is still open.
        client.command("RSET", 250).await?;
    }
    Ok(reply.text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_drains_and_tells_every_sender() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    // One partition: of six lanes' room it has a third.
    let jetstream = ["partitions: 1", "intakeBytes: 12582912", "reserveBytes: 33554432"];
    let size = Size {
        servers: 1,
        ingresses: 1,
        workers: 1,
        jetstream: jetstream.map(String::from).into(),
        ..Size::default()
    };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    let code = mesh.workers[0].stop(Duration::from_secs(30)).await?;
    ensure!(code == Some(0), "exit code {code:?}");
    let address = mesh.ingresses[0].address("submission");
    let mut client = Client::submission(address, SENDER, PASSWORD).await?;
    let body = "a line of text that fills the store\r\n".repeat(1000);
    let mut accepted = 0;
    let refused = loop {
        let reply = send(&mut client, &format!("refuse-{accepted}@far.test"), &body).await?;
        if !reply.starts_with("250") {
            break reply;
        }
        accepted += 1;
        ensure!(accepted < 1000, "a store of 4 MiB does not take 36 MiB");
    };
    ensure!(refused.starts_with("452 4.3.1"), "{refused}");
    ensure!(accepted > 50, "{accepted} messages filled the store");
    // Others have room of their own.
    let reply = send(&mut client, "bob@local.test", "hosted").await?;
    ensure!(reply.starts_with("250"), "{reply}");
    mesh.workers[0].start().await?;
    let mail = mesh.mda_data().join("mail");
    let told = wait::until("a DSN for each", LIMIT, async || {
        let paths = maildir::messages(&mail).ok()?;
        let contents = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let mut told: Vec<String> = contents
            .filter_map(|content| {
                let at = content.find("Final-Recipient: rfc822; refuse-")?;
                content[at..].lines().next().map(str::to_owned)
            })
            .collect();
        told.sort();
        told.dedup();
        (told.len() == accepted).then_some(told)
    })
    .await;
    let told = told.with_context(|| format!("{accepted} bounced"))?;
    let reply = send(&mut client, "someone@far.test", "again").await?;
    ensure!(reply.starts_with("250"), "{reply}");
    println!("{accepted} accepted until 452; {} senders told", told.len());
    wait::until("an empty queue", LIMIT, async || {
        let list = mesh.workers[0].cli(&["queue", "list", "--output", "json"]).await.ok()?;
        list.is_empty().then_some(())
    })
    .await?;
    mesh.stop(Duration::from_secs(60)).await
}
