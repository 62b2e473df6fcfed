//! Large messages pass through, and are never in a role's memory as a whole.
//!
//! With `--long` eight at once go through three servers; else one through one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::load::SENDER;
use tests::memory::{self, mib};
use tests::mesh::{Mesh, Size};
use tests::nats::Settings;
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{flood, scenario, wait};
use tokio::task::JoinSet;

/// Octets of a body.
const BODY: usize = 150_000_000;
const LIMIT: Duration = Duration::from_secs(300);

/// What a role may grow by for one message, and for eight at once.
const GROWTH_ONE: u64 = 64 << 20;
const GROWTH_EIGHT: u64 = 256 << 20;

/// A body of lines that say where they are, without a dot at their beginning.
fn lines(from: usize) -> Vec<u8> {
    let line = |n: usize| format!("{n:010} {:<64}\r\n", "a line of a large message");
    (from..from + 1000).flat_map(|n| line(n).into_bytes()).collect()
}

async fn send(address: SocketAddr, number: usize) -> Result<()> {
    let mut client = Client::submission(address, SENDER, PASSWORD).await?;
    client.command(&format!("MAIL FROM:<{SENDER}> SIZE={BODY}"), 250).await?;
    client.command(&format!("RCPT TO:<large-{number}@d{number}.test>"), 250).await?;
    client.command("DATA", 354).await?;
    client.send(format!("From: <{SENDER}>\r\nSubject: {number}\r\n\r\n").as_bytes()).await?;
    let mut sent = 0;
    for part in 0.. {
        let lines = lines(part * 1000);
        sent += lines.len();
        client.send(&lines).await?;
        if sent >= BODY {
            break;
        }
    }
    client.send(b".\r\n").await?;
    client.expect(250).await.map(drop)
}

/// Whether all lines are there, in their order.
fn check(content: &[u8]) -> Result<()> {
    let end = content.windows(4).position(|octets| octets == b"\r\n\r\n").context("no header")?;
    let body = &content[end + 4..];
    ensure!(body.len() >= BODY, "{} octets", body.len());
    let mut rest = body;
    for part in 0.. {
        let expected = lines(part * 1000);
        rest = rest.strip_prefix(&expected[..]).with_context(|| format!("part {part} differs"))?;
        if rest.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends so many at once; gives by how much ingress and worker grew at most.
async fn growth(mesh: &Mesh, sink: &Sink, count: usize) -> Result<[u64; 2]> {
    let (ingress, worker) = (&mesh.ingresses[0], &mesh.workers[0]);
    let processes = [ingress, worker].map(Postrider::pid);
    for pid in processes {
        memory::forget_peak(pid)?;
    }
    let before = [memory::peak(processes[0])?, memory::peak(processes[1])?];
    let begun = Instant::now();
    let address = ingress.address("submission");
    let mut senders = JoinSet::new();
    for number in 0..count {
        senders.spawn(send(address, number));
    }
    while let Some(sent) = senders.join_next().await {
        sent??;
    }
    let accepted = begun.elapsed();
    wait::until("the large messages", LIMIT, async || (sink.count() >= count).then_some(()))
        .await?;
    let delivered = begun.elapsed();
    let mut grown = [0; 2];
    for (role, pid) in processes.into_iter().enumerate() {
        // The kernel's count is off by some pages: who has not grown may seem to have shrunk.
        grown[role] = memory::peak(pid)?.saturating_sub(before[role]);
    }
    println!(
        "{count} of {BODY} octets at once: accepted after {accepted:?}, delivered after \
         {delivered:?}; ingress {} MiB and {} more at most, worker {} MiB and {} more",
        mib(before[0]),
        mib(grown[0]),
        mib(before[1]),
        mib(grown[1])
    );
    for received in sink.take() {
        check(&received.content)?;
    }
    Ok(grown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_are_not_in_memory() -> Result<()> {
    let servers = if scenario::is_long() { 3 } else { 1 };
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let size = Size {
        servers,
        ingresses: 1,
        workers: 1,
        ingress: vec!["limits: {messageSizeBytes: 160000000}".into()],
        ..Size::default()
    };
    let mut mesh = Mesh::start_on(dir.path(), size, &sink, &Settings::default()).await?;
    // What a role takes once, for its first message, is not the message's size.
    let mut client =
        Client::submission(mesh.ingresses[0].address("submission"), SENDER, PASSWORD).await?;
    let small = format!("From: <{SENDER}>\r\n\r\nsmall\r\n");
    flood::message(&mut client, &["small@good.test".to_owned()], small.as_bytes()).await?;
    wait::until("the small message", LIMIT, async || (sink.count() == 1).then_some(())).await?;
    sink.take();
    let grown = growth(&mesh, &sink, 1).await?;
    ensure!(grown.iter().all(|grown| *grown < GROWTH_ONE), "{grown:?}");
    if scenario::is_long() {
        let grown = growth(&mesh, &sink, 8).await?;
        ensure!(grown.iter().all(|grown| *grown < GROWTH_EIGHT), "{grown:?}");
    }
    mesh.stop(Duration::from_secs(60)).await
}
