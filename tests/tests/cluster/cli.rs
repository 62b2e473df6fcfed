//! Everyday work on the queue by the command line: what waits, why, what it says, trying it again,
//! giving it up. In one process, and in roles.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::home::{Home, Kind};
use tests::process::{PASSWORD, domain_yaml};
use tests::sink::Sink;
use tests::{maildir, scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);
const ALICE: &str = "alice@local.test";
const OLGA: &str = "olga@other.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyday_work_in_one_process() -> Result<()> {
    everyday_work(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyday_work_in_roles() -> Result<()> {
    everyday_work(Kind::Roles).await
}

async fn everyday_work(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let takes = Arc::new(AtomicBool::new(false));
    let verdict = {
        let takes = Arc::clone(&takes);
        move |_: &str| (!takes.load(Ordering::SeqCst)).then_some("451 4.7.1 come back later")
    };
    let sink = Sink::with_verdict(Arc::new(verdict)).await?;
    // Nothing is tried again by itself.
    let config =
        |data: &Path| scenario::config(&sink, data).replace(": [1], repeatSeconds: 1", ": [86400]");
    let domain = ("local.test", &["alice"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    let other = domain_yaml("other.test", &["olga"])?
        .replace("name: d}", "name: other, namespace: acme}")
        .replace("name: m-olga}", "name: olga, namespace: acme}");
    home.change("other.test.yaml", &other).await?;
    let first = send(&home, ALICE, "one@far.test").await?;
    let second = send(&home, ALICE, "two@near.test").await?;
    let third = send(&home, OLGA, "three@far.test").await?;
    until(&home, &["--phase", "deferred"], &[&first, &second, &third]).await?;

    what_is_listed(&home, [&first, &second, &third]).await?;
    what_is_shown(&home, &first).await?;
    mistakes(&home).await?;
    is_given_up(&home, &second).await?;
    takes.store(true, Ordering::SeqCst);
    run(&home, &["queue", "retry", "--id", &first]).await?;
    wait::until("the message", LIMIT, async || (sink.count() == 1).then_some(())).await?;
    until(&home, &[], &[&third]).await?;
    home.stop(LIMIT).await
}

/// The id of a message.
async fn send(home: &Home, sender: &str, recipient: &str) -> Result<String> {
    let submission = home.ingress().address("submission");
    let mut client = Client::submission(submission, sender, PASSWORD).await?;
    let content = format!("From: <{sender}>\r\nSubject: to {recipient}\r\n\r\nbody\r\n");
    let reply = client.transaction(sender, &[recipient], content.as_bytes()).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    Ok(reply.text.split_whitespace().last().context("no id")?.to_owned())
}

async fn run(home: &Home, args: &[&str]) -> Result<String> {
    home.worker().cli(args).await
}

/// Waits until these are the messages that match, in order of arrival.
async fn until(home: &Home, filter: &[&str], wanted: &[&str]) -> Result<()> {
    let args = [&["queue", "list", "--output", "json"], filter].concat();
    let listed = async || {
        let text = run(home, &args).await.ok()?;
        let ids = text.lines().map(|line| {
            let job: Value = serde_json::from_str(line).ok()?;
            Some(job["id"].as_str()?.split_once('.')?.0.to_owned())
        });
        ids.collect::<Option<Vec<String>>>()
    };
    let found = async || listed().await.filter(|ids| ids == wanted).map(drop);
    let waited = wait::until("the list", LIMIT, found).await;
    waited.with_context(|| format!("{filter:?}: wanted {wanted:?}"))
}

async fn what_is_listed(home: &Home, [first, second, third]: [&str; 3]) -> Result<()> {
    let cases: [(&[&str], &[&str]); 8] = [
        (&[], &[first, second, third]),
        (&["--tenant", "acme"], &[third]),
        (&["--sender", "@local.test"], &[first, second]),
        (&["--sender", OLGA], &[third]),
        (&["--recipient-domain", "far.test"], &[first, third]),
        (&["--recipient-domain", "far.test", "--tenant", "default"], &[first]),
        (&["--older-than", "1s"], &[first, second, third]),
        (&["--older-than", "1h"], &[]),
    ];
    for (filter, wanted) in cases {
        until(home, filter, wanted).await?;
    }
    let table = run(home, &["queue", "list", "--tenant", "acme"]).await?;
    ensure!(table.contains("451 4.7.1 come back later (next: "), "the reason: {table}");
    Ok(())
}

async fn what_is_shown(home: &Home, id: &str) -> Result<()> {
    let shown = run(home, &["queue", "show", id, "--output", "json"]).await?;
    let shown: Value = serde_json::from_str(shown.lines().next().context("nothing")?)?;
    let attempts = shown["history"].as_array().context("no history")?;
    ensure!(attempts.len() == 1, "{shown:#}");
    let text = run(home, &["queue", "show", id]).await?;
    for part in [ALICE, "one@far.test", "451 4.7.1 come back later", "127.0.0.1"] {
        ensure!(text.contains(part), "{part}: {text}");
    }
    ensure!(!text.contains("Subject") && !shown.to_string().contains("Subject"), "{text}");
    let message = run(home, &["queue", "message", id]).await?;
    ensure!(message.starts_with("Received: "), "{message}");
    ensure!(message.ends_with("Subject: to one@far.test\r\n\r\nbody\r\n"), "{message}");
    Ok(())
}

async fn mistakes(home: &Home) -> Result<()> {
    let unknown = "01KB7Z2V3WQ6E4M9T5C1R8N0PX";
    let cases: [(&[&str], &str); 6] = [
        (&["queue", "show", unknown], unknown),
        (&["queue", "message", unknown], unknown),
        (&["queue", "show", "nonsense"], "not a queue id: 26 characters"),
        (&["queue", "hold"], "--all"),
        (&["queue", "list", "--older-than", "soon"], "--older-than"),
        (&["queue", "list", "--phase", "lost"], "quarantined"),
    ];
    for (args, words) in cases {
        let refused = run(home, args).await.err().with_context(|| format!("{args:?} is done"))?;
        ensure!(refused.to_string().contains(words), "{args:?}: {refused}");
    }
    Ok(())
}

/// Its sender is told, with the reason.
async fn is_given_up(home: &Home, id: &str) -> Result<()> {
    run(home, &["queue", "cancel", "--id", id]).await?;
    let mail = home.mda().dir().join("data/mail");
    let dsn = wait::until("the DSN", LIMIT, async || {
        let texts = maildir::messages(&mail).ok()?.into_iter().map(fs::read_to_string);
        texts.flatten().find(|text| text.contains("multipart/report"))
    })
    .await?;
    for part in ["two@near.test", "cancelled by an administrator", "Action: failed"] {
        ensure!(dsn.contains(part), "{part}: {dsn}");
    }
    Ok(())
}
