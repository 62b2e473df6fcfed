//! A mistake in a file of domains: the table before stays in force, and the log says what is wrong,
//! where, and what to do. In one process, and in roles.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::home::{Home, Kind};
use tests::process::domain_yaml;
use tests::scenario;
use tests::sink::Sink;

const LIMIT: Duration = Duration::from_secs(60);
const FILE: &str = "local.test.yaml";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_keeps_its_table() -> Result<()> {
    the_table_before_stays(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_keep_their_table() -> Result<()> {
    the_table_before_stays(Kind::Roles).await
}

async fn the_table_before_stays(kind: Kind) -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let config = |data: &std::path::Path| scenario::config(&sink, data);
    let domain = ("local.test", &["alice"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    let relay = home.ingress().address("relay");
    let rcpt = async |name: &str| Client::rcpt(relay, &format!("{name}@local.test")).await;

    let two = domain_yaml("local.test", &["alice", "bob"])?;
    for (from, to, words) in [
        ("address: bob@local.test", "address: bob@elsewhere.test", "spec.address"),
        ("address: bob@local.test", "adress: bob@local.test", "adress"),
        ("address: bob@local.test", "address: [", FILE),
    ] {
        ensure!(two.contains(from), "{two}");
        let wrong = two.replace(from, to);
        let line = wrong.lines().position(|line| line.contains(to)).map(|at| at + 1);
        for said in home.mistake(FILE, &wrong).await? {
            ensure!(said.contains(words), "{words}: {said}");
            // Where a text breaks off, its reader may notice later.
            let place = line.filter(|_| to != "address: [");
            let is_placed = place.is_none_or(|line| said.contains(&format!("{FILE}:{line}")));
            ensure!(is_placed, "line {line:?}: {said}");
        }
        ensure!(rcpt("alice").await? == 250, "she is there");
        ensure!(rcpt("bob").await? == 550, "half of a wrong file is in force");
    }
    home.change(FILE, &two).await?;
    ensure!(rcpt("bob").await? == 250, "what is right is taken up");
    home.stop(LIMIT).await
}
