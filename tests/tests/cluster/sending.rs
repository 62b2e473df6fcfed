//! How much those who log in may send, each and all of a domain together: who is told, and how. In
//! one process, and in roles.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::exposition::Exposition;
use tests::home::{Home, Kind};
use tests::process::{PASSWORD, domain_yaml};
use tests::sink::Sink;
use tests::{scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);
const FILE: &str = "local.test.yaml";
/// What tests may send.
const ANY: &str = "recipientsPerHour: 10000000, recipientsPerDay: 10000000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_in_one_process() -> Result<()> {
    limits(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_in_roles() -> Result<()> {
    limits(Kind::Roles).await
}

/// Alice may send to 3 in a day; all of the domain to 5 in an hour.
fn yaml() -> Result<String> {
    let plain = domain_yaml("local.test", &["alice", "bob"])?;
    let of_domain = plain.replacen(ANY, "recipientsPerHour: 5, recipientsPerDay: 10000000", 1);
    let of_alice = "recipientsPerHour: 10000000, recipientsPerDay: 3";
    let limited = of_domain.replacen(ANY, of_alice, 1);
    ensure!(limited.contains(" 5,") && limited.contains(of_alice), "{limited}");
    Ok(limited)
}

/// What is said of a message from `name`.
async fn send(home: &Home, name: &str) -> Result<String> {
    let address = format!("{name}@local.test");
    let submission = home.ingress().address("submission");
    let mut client = Client::submission(submission, &address, PASSWORD).await?;
    let content = format!("From: <{address}>\r\nSubject: x\r\n\r\nbody\r\n");
    let recipients = ["friend@remote.test"];
    Ok(client.transaction(&address, &recipients, content.as_bytes()).await?.text)
}

async fn limits(kind: Kind) -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let config = |data: &Path| scenario::config(&sink, data);
    let domain = ("local.test", &["alice", "bob"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    home.change(FILE, &yaml()?).await?;
    let of_alice = "450 4.7.1 You send to 3 recipients a day at most; try again in ";
    let of_domain = "450 4.7.1 Your domain sends to 5 recipients an hour at most; try again in ";
    let said = [
        ("alice", "250"),
        ("alice", "250"),
        ("alice", "250"),
        ("alice", of_alice),
        ("bob", "250"),
        ("bob", "250"),
        ("bob", of_domain),
        ("bob", of_domain),
    ];
    for (n, (name, wanted)) in said.into_iter().enumerate() {
        let reply = send(&home, name).await?;
        ensure!(reply.starts_with(wanted), "message {n}, of {name}: {reply}");
    }
    let log = home.ingress().log()?;
    let told = log.iter().filter(|line| line["event"] == "sending_limited");
    let told: Vec<String> =
        told.map(|line| format!("{} {} {}", line["scope"], line["account"], line["per"])).collect();
    let wanted = [r#""mailbox" "alice@local.test" "day""#, r#""domain" "local.test" "hour""#];
    ensure!(told == wanted, "{told:?}");
    let numbers = Exposition::of(home.ingress()).await?;
    let limited = |scope: &str| {
        numbers.sum("postrider_ingress_sending_limited_total", &format!("scope=\"{scope}\""))
    };
    ensure!((limited("mailbox"), limited("domain")) == (1.0, 2.0), "{numbers:?}");
    wait::until("what was accepted", LIMIT, async || (sink.count() == 5).then_some(())).await?;
    home.stop(LIMIT).await
}
