//! What became of mail on JetStream: every process knows what it did itself, and any of them tells
//! what all know.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::ledger::content;
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::process::PASSWORD;
use tests::sink::Sink;
use tests::{scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_process_tells_the_way_that_several_know() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let size = Size { servers: 1, ingresses: 1, workers: 2, ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    let address = mesh.ingresses[0].address("submission");
    let mut client = Client::submission(address, SENDER, PASSWORD).await?;
    let message = content("traced", SENDER, "text");
    // Next hops of both workers, one that is deferred first, one that is refused.
    let mut recipients: Vec<String> = (0..12).map(|n| format!("u@d{n}.test")).collect();
    recipients.push("refuse-me@gone.test".into());
    recipients.push("defer-me@slow.test".into());
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let reply = client.transaction(SENDER, &recipients, &message).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    let id = reply.text.split_whitespace().last().context("no queue id")?;

    // Asked of each: the MDA has delivered the DSN, each worker some of the jobs.
    for process in [&mesh.workers[0], &mesh.workers[1], &mesh.mda] {
        let traced = wait::until("the trace", LIMIT, async || {
            let text = process.cli(&["trace", id, "--output", "json"]).await.ok()?;
            let trace: Value = serde_json::from_str(&text).ok()?;
            let jobs = trace["message"]["jobs"].as_array()?;
            let is_over = |job: &Value| job["ended"]["at"].is_i64();
            let dsn = trace["dsns"][0]["jobs"].as_array()?;
            let all = jobs.len() == 14 && jobs.iter().chain(dsn).all(is_over);
            (all && !dsn.is_empty()).then_some(trace)
        });
        let trace = traced.await.with_context(|| format!("asked {:?}", process.dir()))?;
        let smtp = &trace["message"]["jobs"][0]["job"]["envelope"]["origin"]["smtp"];
        ensure!(smtp["listener"] == "submission" && smtp["helo"] == "client.test", "{smtp:#}");
        let attempts = |place: usize| trace["message"]["jobs"][place]["job"]["attempts"].as_u64();
        ensure!(attempts(13) == Some(2), "{trace:#}");
        let told = &trace["dsns"][0]["jobs"][0]["job"]["recipients"][0];
        ensure!(told["recipient"]["address"] == SENDER && told["status"] == "delivered", "{told}");
    }
    let lines = |n: usize| {
        let file = mesh.workers[n].dir().join("data/history/new");
        std::fs::read_to_string(file).unwrap_or_default().lines().count()
    };
    ensure!(lines(0) > 0 && lines(1) > 0, "both workers had a part: {}, {}", lines(0), lines(1));
    mesh.stop(LIMIT).await
}
