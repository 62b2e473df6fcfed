//! The command line sees the whole queue from any process, and what it asks for is done by the
//! process that has the job.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

async fn list(process: &Postrider, args: &[&str]) -> Result<Vec<Value>> {
    let all = [&["queue", "list", "--output", "json"], args].concat();
    let text = process.cli(&all).await?;
    text.lines().map(|line| serde_json::from_str(line).context("a line of JSON")).collect()
}

/// Waits until so many jobs match.
async fn until(process: &Postrider, args: &[&str], count: usize) -> Result<Vec<Value>> {
    wait::until("the list", LIMIT, async || {
        list(process, args).await.ok().filter(|jobs| jobs.len() == count)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_line_for_all_processes() -> Result<()> {
    const MESSAGES: usize = 30;
    let dir = tempfile::tempdir()?;
    // Nobody takes anything: all of it stays in the queue.
    let sink = Sink::with_verdict(Arc::new(|_| Some("451 4.3.0 later"))).await?;
    let size = Size { servers: 1, ingresses: 1, workers: 2, ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    let ingress = &mesh.ingresses[0];
    let mut client = Client::submission(ingress.address("submission"), SENDER, PASSWORD).await?;
    let mut sent = Vec::new();
    for n in 0..MESSAGES {
        let content = format!("From: <{SENDER}>\r\nSubject: {n}\r\n\r\nbody\r\n");
        let recipient = format!("u@d{n}.test");
        let reply = client.transaction(SENDER, &[&recipient], content.as_bytes()).await?;
        ensure!(reply.code == 250, "{}", reply.text);
        sent.push(reply.text.split_whitespace().last().context("no id")?.to_owned());
    }
    let listed = until(ingress, &[], MESSAGES).await?;
    let ids: Vec<String> = listed
        .iter()
        .map(|job| {
            Ok(job["id"].as_str().context("no id")?.split_once('.').context("no job")?.0.into())
        })
        .collect::<Result<_>>()?;
    // Two of one millisecond are in no order.
    let arrival = |id: &String| id[..10].to_owned();
    let arrivals = |ids: &[String]| ids.iter().map(arrival).collect::<Vec<_>>();
    ensure!(arrivals(&ids) == arrivals(&sent), "in order of arrival: {ids:?}, not {sent:?}");
    for worker in &mesh.workers {
        ensure!(list(worker, &[]).await?.len() == MESSAGES, "any process sees all");
    }
    // Each is tried at least once: its history comes from the worker that has it.
    wait::until("an attempt", LIMIT, async || {
        let shown = ingress.cli(&["queue", "show", &sent[0]]).await.ok()?;
        shown.contains("later").then_some(())
    })
    .await?;
    // So does its content, and only when it is asked for.
    let message = ingress.cli(&["queue", "message", &sent[0]]).await?;
    ensure!(
        message.starts_with("Received: ") && message.ends_with("\r\n\r\nbody\r\n"),
        "{message}"
    );
    let shown = ingress.cli(&["queue", "show", &sent[0], "--output", "json"]).await?;
    ensure!(!shown.contains("Subject") && !shown.contains("body\\r"), "{shown}");
    ingress.cli(&["queue", "hold", "--all"]).await?;
    until(ingress, &["--phase", "held"], MESSAGES).await?;
    ingress.cli(&["queue", "release", "--recipient-domain", "d7.test"]).await?;
    until(ingress, &["--phase", "held"], MESSAGES - 1).await?;
    ingress.cli(&["queue", "cancel", "--silently", "--recipient-domain", "d7.test"]).await?;
    until(ingress, &[], MESSAGES - 1).await?;
    for process in mesh.workers.iter().chain([&mesh.mda]) {
        let stats = process.cli(&["queue", "stats", "--output", "json"]).await?;
        ensure!(stats.contains("\"held\":29"), "any process counts all: {stats}");
    }
    // What a dead worker had is listed again once another has taken its partitions.
    mesh.workers[0].kill().await?;
    until(&mesh.ingresses[0], &["--phase", "held"], MESSAGES - 1).await?;
    let ingress = &mesh.ingresses[0];
    let stats = mesh.workers[1].cli(&["queue", "stats", "--output", "json"]).await?;
    ensure!(stats.contains("\"held\":29"), "{stats}");
    ingress.cli(&["queue", "cancel", "--silently", "--all"]).await?;
    until(ingress, &[], 0).await?;
    mesh.workers[0].start().await?;
    mesh.stop(Duration::from_secs(60)).await
}
