//! `postrider trace` tells a message's way from its connection to the delivery of its DSN, also
//! after the process that knew it was killed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::ledger::content;
use tests::load::SENDER;
use tests::process::{PASSWORD, Postrider};
use tests::scenario;
use tests::sink::Sink;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the trace as JSON satisfies `is_it`.
async fn traced(postrider: &Postrider, id: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until("the trace", LIMIT, async || {
        let text = postrider.cli(&["trace", id, "--output", "json"]).await.ok()?;
        let trace: Value = serde_json::from_str(&text).ok()?;
        is_it(&trace).then_some(trace)
    })
    .await
}

fn is_over(trace: &Value) -> bool {
    let ended = |message: &Value| {
        let jobs = message["jobs"].as_array().filter(|jobs| !jobs.is_empty());
        jobs.is_some_and(|jobs| jobs.iter().all(|job| job["ended"]["at"].is_i64()))
    };
    let dsns = trace["dsns"].as_array().into_iter().flatten();
    ended(&trace["message"]) && dsns.clone().count() > 0 && dsns.clone().all(ended)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_connection_to_the_dsn_and_past_a_kill() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let config = scenario::config(&sink, &dir.path().join("data"));
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice"])?;
    postrider.start().await?;
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let message = content("traced", SENDER, "text");
    let recipients = ["friend@fine.test", "refuse-me@gone.test"];
    let reply = client.transaction(SENDER, &recipients, &message).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    let id = reply.text.split_whitespace().last().context("no queue id")?;

    let trace = traced(&postrider, id, is_over).await?;
    postrider.kill().await?;
    postrider.start().await?;
    ensure!(traced(&postrider, id, is_over).await? == trace, "it is the same after a kill");
    let jobs = trace["message"]["jobs"].as_array().context("no jobs")?;
    ensure!(jobs.len() == 2 && trace["dsns"].as_array().is_some_and(|all| all.len() == 1));
    let text = postrider.cli(&["trace", id]).await?;
    let parts: [&str; 17] = [
        &format!("message {id}\n"),
        "\n  came       127.0.0.1:",
        " to submission\n",
        "\n  session    ESMTPSA, TLSv1.3",
        ", HELO client.test\n",
        &format!("\n  login      {SENDER}\n"),
        &format!("\n  from       <{SENDER}>\n"),
        "\n  accepted   20",
        &format!("\n{id}.0 to smtp:fine.test: ended 20"),
        "\n  to         <friend@fine.test> delivered\n",
        &format!("\n{id}.1 to smtp:gone.test: ended 20"),
        "\n  to         <refuse-me@gone.test> bounced\n",
        "550 5.1.1 no such user\n  attempt 1  20",
        &format!(": failed, for {id}.1\n"),
        "\n  came       we made it\n",
        ".0 to mailbox:local.test: ended 20",
        &format!("\n  to         <{SENDER}> delivered\n"),
    ];
    let mut rest = &*text;
    for part in parts {
        let at = rest.find(part).with_context(|| format!("no {part:?} in its place: {text}"))?;
        rest = &rest[at + part.len() - usize::from(part.ends_with('\n'))..];
    }
    // The DSN tells what it is of; nothing is known of what never was.
    let dsn = trace["dsns"][0]["id"].as_str().context("no DSN")?;
    let of_dsn = postrider.cli(&["trace", dsn]).await?;
    ensure!(of_dsn.starts_with(&format!("DSN {dsn}: failed, for {id}.1\n")), "{of_dsn}");
    let unknown = postrider.cli(&["trace", "01JD5ZQ9W3T8M1V5K7N2B4C6XR"]).await;
    let error = unknown.err().context("found what never was")?.to_string();
    ensure!(error.contains("neither in the queue nor in the history"), "{error}");
    ensure!(postrider.stop(LIMIT).await? == Some(0), "it did not stop in order");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_that_waits_and_mail_that_was_dropped() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(Arc::new(|_| Some("451 4.7.1 later"))).await?;
    let config = scenario::config(&sink, &dir.path().join("data"));
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice"])?;
    postrider.start().await?;
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let message = content("waits", SENDER, "text");
    let reply = client.transaction(SENDER, &["friend@slow.test"], &message).await?;
    let id = reply.text.split_whitespace().last().context("no queue id")?;
    let twice = |trace: &Value| trace["message"]["jobs"][0]["job"]["attempts"] == 2;
    traced(&postrider, id, twice).await?;
    postrider.cli(&["queue", "hold", "--id", id]).await?;
    let held = |trace: &Value| trace["message"]["jobs"][0]["job"]["phase"] == "held";
    traced(&postrider, id, held).await?;
    let text = postrider.cli(&["trace", id]).await?;
    for part in [": held, ", "\n  attempt 1  ", "\n  attempt 2  ", " 451 4.7.1 later\n"] {
        ensure!(text.contains(part), "{part:?}: {text}");
    }
    postrider.cli(&["queue", "cancel", "--silently", "--id", id]).await?;
    let text = postrider.cli(&["trace", id]).await?;
    ensure!(text.contains(&format!("\n{id}.0: dropped by an operator 20")), "{text}");
    ensure!(postrider.stop(LIMIT).await? == Some(0), "it did not stop in order");
    Ok(())
}
