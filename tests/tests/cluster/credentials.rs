//! Those who log in to any of several processes: together they keep a limit, and what is known of
//! their passwords is known to all.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use serde_json::Value;
use tests::client::Client;
use tests::mesh::{Mesh, Size};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::wait;

const ALICE: &str = "alice@local.test";
const LIMIT: Duration = Duration::from_secs(60);
const CONTENT: &[u8] = b"From: <alice@local.test>\r\nSubject: x\r\n\r\nbody\r\n";
/// Of alice, in an hour.
const RECIPIENTS: usize = 40;

async fn log_in(process: &Postrider) -> Result<Client> {
    Client::submission(process.address("submission"), ALICE, PASSWORD).await
}

/// The code of the reply, and its text.
async fn send(client: &mut Client) -> Result<(u16, String)> {
    let reply = client.transaction(ALICE, &["friend@remote.test"], CONTENT).await?;
    if reply.code != 250 {
        client.command("RSET", 250).await?;
    }
    Ok((reply.code, reply.text))
}

/// Sets alice's limit before anything starts to serve.
fn limit(process: &Postrider) -> Result<()> {
    let path = process.dir().join("domains/local.test.yaml");
    let yaml = fs::read_to_string(&path)?;
    let own = format!("address: {ALICE}\n  sendingLimits: {{recipientsPerHour: {RECIPIENTS},");
    let limited = yaml.replacen(
        &format!("address: {ALICE}\n  sendingLimits: {{recipientsPerHour: 10000000,"),
        &own,
        1,
    );
    ensure!(limited != yaml, "no limit to change in {yaml}");
    Ok(fs::write(path, limited)?)
}

async fn until_limited(process: &Postrider) -> Result<()> {
    // Each looks at its files by itself.
    wait::until("the new table", LIMIT, async || {
        let log = process.log().ok()?;
        log.iter().any(|line| line["event"] == "table_changed").then_some(())
    })
    .await
}

async fn mesh(dir: &std::path::Path, sink: &Sink) -> Result<Mesh> {
    let size = Size { servers: 1, ingresses: 2, workers: 1, ..Size::default() };
    let mesh = Mesh::start(dir, size, sink).await?;
    for process in &mesh.ingresses {
        limit(process)?;
    }
    for process in &mesh.ingresses {
        until_limited(process).await?;
    }
    Ok(mesh)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_keep_a_limit_together() -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let mut mesh = mesh(dir.path(), &sink).await?;
    let mut clients = [log_in(&mesh.ingresses[0]).await?, log_in(&mesh.ingresses[1]).await?];
    let mut accepted = 0;
    for n in 0..RECIPIENTS {
        let (code, text) = send(&mut clients[n % 2]).await?;
        ensure!(code == 250 || code == 450, "{text}");
        accepted += usize::from(code == 250);
    }
    // Whoever dies has what it leased counted.
    mesh.ingresses[0].kill().await?;
    mesh.ingresses[0].start().await?;
    clients[0] = log_in(&mesh.ingresses[0]).await?;
    for n in 0..RECIPIENTS {
        let (code, text) = send(&mut clients[n % 2]).await?;
        ensure!(code == 250 || code == 450, "{text}");
        accepted += usize::from(code == 250);
    }
    println!("{accepted} of {RECIPIENTS} accepted by two processes, one of which was killed");
    ensure!(accepted <= RECIPIENTS, "{accepted} were accepted");
    ensure!(accepted >= RECIPIENTS - 6, "only {accepted} were accepted: much was held back");
    let (code, text) = send(&mut clients[1]).await?;
    ensure!(code == 450 && text.contains("an hour at most; try again in"), "{text}");
    wait::until("the messages at the sink", LIMIT, async || {
        (sink.count() == accepted).then_some(())
    })
    .await?;
    mesh.stop(LIMIT).await
}

async fn passwords(process: &Postrider) -> Result<Vec<Value>> {
    let said = process.cli(&["domain", "passwords", ALICE, "--output", "json"]).await?;
    said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_at_one_process_is_known_to_the_others() -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let mut mesh = mesh(dir.path(), &sink).await?;
    ensure!(passwords(&mesh.ingresses[1]).await?[0]["lastUse"].is_null());
    log_in(&mesh.ingresses[0]).await?;
    let used = wait::until("the last use", LIMIT, async || {
        let found = passwords(&mesh.ingresses[1]).await.ok()?;
        found[0]["lastUse"].is_i64().then_some(found)
    })
    .await?;
    ensure!(used[0]["name"] == "test" && used[0]["listener"] == "submission", "{used:#?}");
    // A worker knows nobody's passwords.
    let elsewhere = mesh.workers[0].cli(&["domain", "passwords", ALICE]).await;
    let said = elsewhere.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(said.contains("nobody logs in to this process"), "{said}");
    mesh.stop(LIMIT).await
}

/// Nobody sends without a limit because servers are away, and nobody's mail bounces for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_servers_are_away_nothing_is_sent() -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let mut mesh = mesh(dir.path(), &sink).await?;
    let mut client = log_in(&mesh.ingresses[0]).await?;
    let (code, text) = send(&mut client).await?;
    ensure!(code == 250, "{text}");
    mesh.servers.kill(0)?;
    let away = wait::until("a reply without servers", LIMIT, async || {
        let reply = send(&mut client).await.ok()?;
        (reply.0 != 250).then_some(reply)
    })
    .await?;
    ensure!(away.0 == 451, "{}", away.1);
    mesh.servers.restart(0)?;
    wait::until("mail to be accepted again", LIMIT, async || {
        let mut client = log_in(&mesh.ingresses[0]).await.ok()?;
        (send(&mut client).await.ok()?.0 == 250).then_some(())
    })
    .await?;
    mesh.stop(LIMIT).await
}

/// The bucket of last uses may be about to be restored: an ingress waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_ingress_makes_the_bucket_of_last_uses() -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let mut mesh = mesh(dir.path(), &sink).await?;
    let context = jetstream::new(async_nats::connect(mesh.servers.urls()).await?);
    let find = async || context.get_stream("KV_logins").await.ok().map(drop);
    wait::until("the bucket", LIMIT, find).await?;
    mesh.workers[0].stop(LIMIT).await?;
    mesh.mda.stop(LIMIT).await?;
    context.delete_stream("KV_logins").await?;
    log_in(&mesh.ingresses[0]).await?;
    wait::until("a use that waits", LIMIT, async || {
        let log = mesh.ingresses[0].log().ok()?;
        log.iter().any(|line| line["event"] == "last_uses_wait").then_some(())
    })
    .await?;
    ensure!(find().await.is_none(), "an empty bucket was made");
    mesh.workers[0].start().await?;
    mesh.mda.start().await?;
    wait::until("the bucket again", LIMIT, find).await?;
    // It is tried again within a minute.
    wait::until("the last use", 2 * LIMIT, async || {
        passwords(&mesh.ingresses[1]).await.ok()?[0]["lastUse"].is_i64().then_some(())
    })
    .await?;
    mesh.stop(LIMIT).await
}
