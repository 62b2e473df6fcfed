//! One trace tells the story of a message: through every process, to the delivery of its DSN; and
//! a collector that hangs costs spans, not mail.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Client, dot_stuffed};
use tests::collector::{Collector, Span};
use tests::mesh::{Mesh, Size};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{scenario, wait};
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "Bearer s3cret";

/// Sends to `recipient` and gives the queue id.
async fn send(client: &mut Client, recipient: &str) -> Result<String> {
    client.command("MAIL FROM:<alice@local.test>", 250).await?;
    client.command(&format!("RCPT TO:<{recipient}>"), 250).await?;
    client.command("DATA", 354).await?;
    let content = "From: <alice@local.test>\r\nSubject: x\r\n\r\nbody\r\n";
    client.send(&dot_stuffed(content.as_bytes())).await?;
    let reply = client.reply().await?;
    ensure!(reply.code == 250, "{}", reply.text);
    Ok(reply.text.split_whitespace().last().context("no id")?.to_owned())
}

async fn log_in(process: &Postrider) -> Result<Client> {
    Client::submission(process.address("submission"), "alice@local.test", PASSWORD).await
}

/// The log lines of an event, of all processes.
fn lines(processes: &[&Postrider], event: &str) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for process in processes {
        lines.extend(process.log()?.into_iter().filter(|line| line["event"] == event));
    }
    Ok(lines)
}

/// Restarts a process with a section `telemetry`.
async fn with_telemetry(process: &mut Postrider, endpoint: &str) -> Result<()> {
    process.stop(LIMIT).await?;
    let file = process.dir().join("postrider.yaml");
    let section = format!("telemetry:\n  endpoint: \"{endpoint}\"\n  headersFile: headers.yaml\n");
    std::fs::write(&file, std::fs::read_to_string(&file)? + &section)?;
    let headers = format!("authorization: {SECRET}\n");
    std::fs::write(process.dir().join("headers.yaml"), headers)?;
    process.start().await
}

fn trace_id(line: &Value) -> Result<String> {
    Ok(line["trace_id"].as_str().with_context(|| format!("no trace_id: {line}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_from_connection_to_dsn() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let collector = Collector::start().await?;
    // Deferred first, so that the message goes from intake to jobs; then refused.
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let verdict = move |_: &str| match tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0..3 => Some("451 4.3.0 later"),
        _ => Some("550 5.1.1 no such user"),
    };
    let sink = Sink::with_verdict(Arc::new(verdict)).await?;
    let size = Size { servers: 1, ingresses: 1, workers: 1, ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    for process in mesh.processes_mut() {
        with_telemetry(process, &format!("http://{}", collector.address())).await?;
    }
    let mut client = log_in(&mesh.ingresses[0]).await?;
    let id = send(&mut client, "secret-name@remote.test").await?;
    let shown = wait::until("the message in the queue", LIMIT, async || {
        let shown = mesh.ingresses[0].cli(&["queue", "show", &id]).await.ok()?;
        shown.contains("later").then_some(shown)
    });
    let shown = shown.await?;
    wait::until("the DSN", LIMIT, async || {
        lines(&mesh.processes(), "stored").ok().filter(|lines| !lines.is_empty())
    })
    .await?;
    let second = send(&mut client, "alice@local.test").await?;
    wait::until("the second message", LIMIT, async || {
        lines(&mesh.processes(), "stored").ok().filter(|lines| lines.len() == 2)
    })
    .await?;
    drop(client);

    let mut ids = HashSet::new();
    for event in ["accepted", "deferred", "bounced", "stored"] {
        let all = lines(&mesh.processes(), event)?;
        // The second message is accepted and stored last.
        ids.insert(trace_id(all.first().with_context(|| format!("no line {event}"))?)?);
    }
    ensure!(ids.len() == 1, "one id in the lines of all processes: {ids:?}");
    let id = ids.into_iter().next().context("an id")?;
    ensure!(shown.contains(&format!("trace      {id}")), "{shown}");

    // Stopped at once: what had not left by then is flushed.
    mesh.stop(LIMIT).await?;
    let spans = collector.spans();
    check_tree(&spans, &id)?;
    let later: Vec<&Span> = spans.iter().filter(|span| span.links == [id.clone()]).collect();
    ensure!(later.len() == 1 && later[0].trace_id != id, "the second message: {later:?}");
    ensure!(later[0].attribute("messaging.message.id") == Some(&second), "{later:?}");
    let told = format!("{spans:?}");
    for kept_back in ["secret-name", "alice", "s3cret"] {
        ensure!(!told.contains(kept_back), "{kept_back} is in {told}");
    }
    let want = format!("/v1/traces {SECRET}");
    ensure!(collector.requests().iter().all(|request| *request == want), "{want}");
    Ok(())
}

/// Every span of the trace hangs below the session, and each process has its part.
fn check_tree(spans: &[Span], id: &str) -> Result<()> {
    let trace: Vec<&Span> = spans.iter().filter(|span| span.trace_id == id).collect();
    let of = |service: &str, name: &str| {
        trace.iter().filter(|span| span.service == service && span.name == name).count()
    };
    for name in ["smtp.session", "smtp.transaction", "smtp.commit"] {
        ensure!(of("postrider-ingress", name) == 1, "{name}: {trace:#?}");
    }
    ensure!(of("postrider-worker", "smtp.deliver") >= 2, "attempts: {trace:#?}");
    ensure!(of("postrider-mda", "mailbox.deliver") == 1, "the DSN: {trace:#?}");
    for span in &trace {
        let is_first = span.name == "smtp.session";
        let has_parent = trace.iter().any(|other| other.span_id == span.parent);
        ensure!(if is_first { span.parent.is_empty() } else { has_parent }, "{span:?}");
        ensure!(span.events == 0, "log lines stay in the log: {span:?}");
    }
    let results: HashSet<_> = trace.iter().filter_map(|s| s.attribute("smtp.result")).collect();
    ensure!(results == HashSet::from(["deferred", "bounced", "stored"]), "{results:?}");
    Ok(())
}

fn one_process(dir: &Path, sink: &Sink) -> Result<Postrider> {
    let process = Postrider::new(dir, &scenario::config(sink, &dir.join("data")))?;
    process.write_domain("local.test", &["alice"])?;
    Ok(process)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_delays_no_mail() -> Result<()> {
    // More spans than may wait: some four for each message.
    const MESSAGES: usize = 1_500;
    let dir = tempfile::tempdir()?;
    // It takes connections and never reads: the worst a collector can do.
    let hanging = TcpListener::bind("127.0.0.1:0").await?;
    let sink = Sink::start().await?;
    let mut process = one_process(dir.path(), &sink)?;
    process.start().await?;
    with_telemetry(&mut process, &format!("http://{}", hanging.local_addr()?)).await?;
    let mut client = log_in(&process).await?;
    for n in 0..MESSAGES {
        send(&mut client, &format!("u{n}@remote.test")).await?;
    }
    wait::until("every message", LIMIT, async || (sink.count() == MESSAGES).then_some(())).await?;
    wait::until("the line that tells of it", LIMIT, async || {
        lines(&[&process], "collector_down").ok().filter(|lines| !lines.is_empty())
    })
    .await?;
    drop(client);
    ensure!(process.stop(Duration::from_secs(30)).await? == Some(0), "stops all the same");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_there_without_a_collector() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let mut process = one_process(dir.path(), &sink)?;
    process.start().await?;
    let mut client = log_in(&process).await?;
    send(&mut client, "u@remote.test").await?;
    let delivered = wait::until("the delivery", LIMIT, async || {
        lines(&[&process], "delivered").ok().filter(|lines| !lines.is_empty())
    });
    let delivered = trace_id(&delivered.await?[0])?;
    let accepted = trace_id(&lines(&[&process], "accepted")?[0])?;
    ensure!(accepted == delivered && accepted.len() == 32, "{accepted}, {delivered}");
    process.stop(LIMIT).await?;
    Ok(())
}
