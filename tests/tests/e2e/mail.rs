//! From nothing to mail: in, out, and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::helm::{Release, WORLD_PORT};
use tests::process::PASSWORD;
use tests::sink::Sink;
use tests::{tenant, wait};

const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(300);

fn message(from: &str, subject: &str) -> Vec<u8> {
    format!("From: <{from}>\r\nSubject: {subject}\r\n\r\nhello\r\n").into_bytes()
}

/// Waits until the MDA has stored mail from a sender; gives the line that says so.
async fn stored(release: &Release, sender: &str) -> Result<serde_json::Value> {
    wait::until_every(PAUSE, "the mail to be stored", LIMIT, async || {
        let log = release.run(&["logs", "postrider-mda-0", "--since=5m"]).await.ok()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let is_it =
            |line: &serde_json::Value| line["event"] == "stored" && line["sender"] == sender;
        lines.into_iter().find(is_it)
    })
    .await
}

#[tokio::test]
async fn mail_flows_in_and_out_and_bounces_return() -> Result<()> {
    let release = Release::shared().await?;
    release.kubectl.namespace("flow", true).await?;
    let resources = tenant::domain("flow.example", "alice@flow.example")
        + &tenant::mailbox_with_password("alice@flow.example");
    tenant::apply(&release.kubectl, "flow", &resources).await?;
    for resource in ["maildomain/flow-example", "mailbox/alice-flow-example"] {
        release.kubectl.wait("flow", resource, "Ready").await?;
    }
    receives(&release).await?;
    sends(&release).await
}

async fn receives(release: &Release) -> Result<()> {
    let mx = release.address("mx", 25).await?;
    ensure!(Client::rcpt(mx, "nobody@flow.example").await? == 550, "it is nobody's");
    let refused = Client::rcpt(mx, "somebody@elsewhere.example").await?;
    ensure!(refused == 550, "an open relay: {refused}");
    let mut client = Client::connect(mx).await?;
    client.command("EHLO client.test", 250).await?;
    let mut client = client.start_tls().await?;
    client.command("EHLO client.test", 250).await?;
    let content = message("bob@elsewhere.example", "in");
    let sender = "in@elsewhere.example";
    let reply = client.transaction(sender, &["alice@flow.example"], &content).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    let line = stored(release, "<in@elsewhere.example>").await?;
    let id = line["id"].as_str().and_then(|id| id.split('.').next()).context("no id")?;
    // The way of the message, as operators see it.
    let traced = release.postrider(&["trace", id]).await?;
    ensure!(traced.contains("alice@flow.example") && traced.contains("in@elsewhere"), "{traced}");
    Ok(())
}

/// One recipient is taken, the other refused: the sender hears of it.
async fn sends(release: &Release) -> Result<()> {
    let refuses = |recipient: &str| recipient.starts_with("gone").then_some("550 5.1.1 gone");
    let world = Sink::bind(SocketAddr::from(([0, 0, 0, 0], WORLD_PORT)), Arc::new(refuses)).await?;
    let submission = release.address("submission", 587).await?;
    let mut client = Client::submission(submission, "alice@flow.example", PASSWORD).await?;
    let recipients = ["friend@world.example", "gone@world.example"];
    let content = message("alice@flow.example", "out");
    let reply = client.transaction("alice@flow.example", &recipients, &content).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    let received =
        wait::until("the mail to arrive", LIMIT, async || world.received().pop()).await?;
    ensure!(received.recipients == ["friend@world.example"], "{:?}", received.recipients);
    ensure!(received.content.windows(5).any(|part| part == b"hello"), "not the content");
    stored(release, "<>").await.context("the bounce")?;
    wait::until_every(PAUSE, "the queue to be empty", LIMIT, async || {
        let listed = release.postrider(&["queue", "list", "--output=json"]).await.ok()?;
        listed.trim().is_empty().then_some(())
    })
    .await
}
