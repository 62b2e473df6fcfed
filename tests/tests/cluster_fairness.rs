//! A flood to a dead and to a slow destination holds back nobody else, although all of it is in one
//! partition and more than its owner takes in hand.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::client::{Client, dot_stuffed};
use tests::mesh::{Mesh, Size};
use tests::process::PASSWORD;
use tests::scenario;
use tests::sink::Sink;
use tests::wait;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(60);
/// What the owner of the partition takes in hand.
const WINDOW: usize = 400;

async fn send(client: &mut Client, recipient: &str, subject: &str) -> Result<()> {
    for line in ["MAIL FROM:<alice@local.test>".into(), format!("RCPT TO:<{recipient}>")] {
        client.command(&line, 250).await?;
    }
    client.command("DATA", 354).await?;
    let content = format!("From: <alice@local.test>\r\nSubject: {subject}\r\n\r\nbody\r\n");
    client.send(&dot_stuffed(content.as_bytes())).await?;
    let reply = client.reply().await?;
    ensure!(reply.code == 250, "{}", reply.text);
    Ok(())
}

async fn login(address: SocketAddr) -> Result<Client> {
    Client::submission(address, "alice@local.test", PASSWORD).await
}

/// Sends `count` messages, each when the one before has arrived; gives how long each took from its
/// 250 to its arrival, sorted.
async fn latencies(
    address: SocketAddr,
    sink: &Sink,
    count: usize,
    name: &str,
) -> Result<Vec<Duration>> {
    let mut client = login(address).await?;
    let mut taken = Vec::with_capacity(count);
    for n in 0..count {
        let recipient = format!("{name}-{n}@good.test");
        send(&mut client, &recipient, "victim").await?;
        let accepted = Instant::now();
        let arrived = wait::until("the victim's message", LIMIT, async || {
            let received = sink.received();
            received.iter().find(|one| one.recipients.contains(&recipient)).map(|one| one.at)
        })
        .await?;
        taken.push(arrived.saturating_duration_since(accepted));
    }
    taken.sort();
    Ok(taken)
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_holds_back_nobody_else() -> Result<()> {
    let (flood, victims) = if scenario::is_long() { (20_000, 400) } else { (1_500, 50) };
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let dead = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // Connections succeed, and nothing is ever said.
    let tarpit = TcpListener::bind("127.0.0.1:0")?;
    let slow = tarpit.local_addr()?.port();
    let size = Size {
        servers: 1,
        ingresses: 1,
        workers: 1,
        jetstream: vec!["partitions: 1".into(), format!("window: {WINDOW}")],
        routes: vec![
            format!("{{domain: dead.test, host: \"127.0.0.1\", port: {dead}}}"),
            format!("{{domain: slow.test, host: \"127.0.0.1\", port: {slow}}}"),
        ],
        ..Size::default()
    };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    let address = mesh.ingresses[0].address("submission");
    let before = latencies(address, &sink, victims, "before").await?;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut flooders = JoinSet::new();
    for domain in ["dead.test", "slow.test", "dead.test", "slow.test"] {
        let sent = Arc::clone(&sent);
        flooders.spawn(async move {
            let mut client = login(address).await?;
            while sent.fetch_add(1, Ordering::SeqCst) < flood {
                send(&mut client, &format!("u@{domain}"), "flood").await?;
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    wait::until("more flood than the window", LIMIT, async || {
        (sent.load(Ordering::SeqCst) > 2 * WINDOW).then_some(())
    })
    .await?;
    let during = latencies(address, &sink, victims, "during").await?;
    while let Some(ended) = flooders.join_next().await {
        ended.context("a flooder panicked")??;
    }
    let standing = latencies(address, &sink, victims, "standing").await?;
    println!(
        "{flood} messages of flood; p50/p99 of the victim before {:?}/{:?}, during {:?}/{:?}, \
         with it standing {:?}/{:?}",
        before[victims / 2],
        p99(&before),
        during[victims / 2],
        p99(&during),
        standing[victims / 2],
        p99(&standing),
    );
    // All of the flood waits, and is seen to.
    let listed = wait::until("the flood in the list", LIMIT, async || {
        let list = mesh.workers[0].cli(&["queue", "list", "--output", "json"]).await.ok()?;
        let count = list.lines().count();
        (count >= flood).then_some(count)
    })
    .await?;
    ensure!(listed == flood, "{listed} jobs wait, not {flood}");
    ensure!(p99(&standing) < Duration::from_secs(2), "the victim waited {:?}", p99(&standing));
    mesh.workers[0].cli(&["queue", "cancel", "--silently", "--all"]).await?;
    drop(tarpit);
    for process in mesh.processes_mut() {
        process.kill().await?;
    }
    Ok(())
}
