//! What clients may cost: silent ones hold nobody up, idle ones are cheap, large mail is streamed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::load::SENDER;
use tests::process::{PASSWORD, Postrider};
use tests::sim::crowd;
use tests::sink::Sink;
use tests::{scenario, wait};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A running process with `alice@local.test`, and the sink that remote mail goes to.
async fn start(dir: &tempfile::TempDir, limits: &str) -> Result<(Postrider, Sink)> {
    let sink = Sink::start().await?;
    let config = scenario::config(&sink, &dir.path().join("data"));
    let config = config.replace("ingress:\n", &format!("ingress:\n  limits: {{{limits}}}\n"));
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice"])?;
    // Memory is measured by the page, not by the 2 MiB that the allocator asks for at once.
    postrider.set_env("MIMALLOC_ALLOW_THP", "0");
    postrider.start().await?;
    Ok((postrider, sink))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_hold_nobody_up() -> Result<()> {
    const SILENT: usize = 500;
    const DEAF: usize = 50;
    const MESSAGES: usize = 200;
    crowd::allow_files(4096)?;
    let dir = tempfile::tempdir()?;
    let (postrider, _sink) = start(&dir, "").await?;
    let relay = postrider.address("relay");
    let mut crowd = Vec::new();
    for n in 0..SILENT + DEAF {
        let mut stream = crowd::connect(n, relay).await?;
        // Who speaks before the greeting is refused for that.
        stream.readable().await?;
        // More commands than that end a session; their replies fill the buffers.
        let said = if n < SILENT { "E".to_owned() } else { "EHLO deaf.test\r\n".repeat(450) };
        stream.write_all(said.as_bytes()).await?;
        crowd.push(stream);
    }
    let (started, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut client = Client::connect(relay).await?;
    client.command("EHLO client.test", 250).await?;
    for n in 0..MESSAGES {
        let message = format!("Subject: {n}\r\n\r\n{}\r\n", "x".repeat(900));
        let sending = Instant::now();
        let recipients = ["alice@local.test"];
        let reply = client.transaction("a@remote.test", &recipients, message.as_bytes()).await?;
        ensure!(reply.code == 250, "message {n} was answered {}", reply.text);
        slowest = slowest.max(sending.elapsed());
    }
    let took = started.elapsed();
    println!("{MESSAGES} messages in {took:?}, the slowest {slowest:?}, beside {SILENT} + {DEAF}");
    ensure!(took < Duration::from_secs(30), "slow clients held up another one: {took:?}");
    let still_there = crowd.iter().take(SILENT).filter(|stream| is_open(stream)).count();
    ensure!(still_there == SILENT, "{still_there} of {SILENT} silent clients were let stay");
    Ok(())
}

/// Whether the server has not closed the connection.
fn is_open(stream: &TcpStream) -> bool {
    let mut chunk = [0; 4096];
    loop {
        match stream.try_read(&mut chunk) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_cheap() -> Result<()> {
    // Fewer would live in memory that the process has had since its start, and show nothing.
    const IDLE: usize = 10_000;
    const KIB_PER_CONNECTION: f64 = 14.0;
    crowd::allow_files(IDLE + 1_000)?;
    let dir = tempfile::tempdir()?;
    let (postrider, _sink) = start(&dir, "").await?;
    let before = crowd::pss_kib(postrider.pid())?;
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let stream = crowd::connect(n, postrider.address("relay")).await?;
        let mut client = Client::over(stream).await?;
        client.command("EHLO idle.test", 250).await?;
        idle.push(client);
    }
    let with = crowd::pss_kib(postrider.pid())?;
    for client in &mut idle {
        client.command("NOOP", 250).await?;
    }
    // All that the process has is counted against them: what it had before, they may use as well.
    let each = with as f64 / IDLE as f64;
    println!("{IDLE} idle connections: {before} KiB before, {with} KiB with: {each:.1} KiB each");
    ensure!(each <= KIB_PER_CONNECTION, "{each:.1} KiB per idle connection");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_is_streamed() -> Result<()> {
    const CHUNKS: usize = 150;
    const GROWTH_KIB: u64 = 32 << 10;
    let dir = tempfile::tempdir()?;
    let (postrider, sink) = start(&dir, "messageSizeBytes: 200000000").await?;
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let before = crowd::pss_kib(postrider.pid())?;
    let send = async {
        client.command(&format!("MAIL FROM:<{SENDER}>"), 250).await?;
        client.command("RCPT TO:<user@remote.test>", 250).await?;
        client.command("DATA", 354).await?;
        client.send(format!("From: <{SENDER}>\r\nSubject: large\r\n\r\n").as_bytes()).await?;
        for n in 0..CHUNKS {
            client.send(&chunk(n, Form::Wire)).await?;
        }
        client.send(b".\r\n").await?;
        client.expect(250).await
    };
    let mut peak = before;
    let watch = wait::until("the message at the sink", Duration::from_secs(300), async || {
        peak = peak.max(crowd::pss_kib(postrider.pid()).ok()?);
        sink.received().pop()
    });
    let (sent, received) = tokio::join!(send, watch);
    let content = received?.content;
    sent?;
    let octets: usize = (0..CHUNKS).map(|n| chunk(n, Form::Plain).len()).sum();
    let growth = peak - before;
    println!("{octets} octets: {before} KiB before, {growth} KiB more at the peak");
    ensure!(octets >= 150_000_000 && content.len() > octets, "the message is cut");
    let (header, mut body) = content.split_at(content.len() - octets);
    ensure!(header.ends_with(b"\r\n\r\n"), "the body begins elsewhere");
    for n in 0..CHUNKS {
        let (found, rest) = body.split_at(chunk(n, Form::Plain).len());
        ensure!(found == chunk(n, Form::Plain), "chunk {n} was changed");
        body = rest;
    }
    ensure!(growth < GROWTH_KIB, "the message was collected: {growth} KiB");
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// Dots are stuffed.
    Wire,
}

/// A megabyte of lines of its own; some begin with a dot.
fn chunk(n: usize, form: Form) -> Vec<u8> {
    let stuffing = if form == Form::Wire { "." } else { "" };
    let mut text = format!("{stuffing}.{n}\r\n");
    let filling = "abcdefgh".repeat(110);
    for line in 0.. {
        if text.len() >= 1_000_100 {
            break;
        }
        text += &format!("{n}.{line} {filling}\r\n");
    }
    text.into_bytes()
}
