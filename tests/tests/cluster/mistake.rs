//! A mistake in a file of domains, or in the configuration: what was before stays in force, and it
//! is said what is wrong, where, and what to do. In one process, and in roles.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_keeps_its_configuration() -> Result<()> {
    the_configuration_before_stays(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_keep_their_configuration() -> Result<()> {
    the_configuration_before_stays(Kind::Roles).await
}

/// What is only found where it is read or tried has its place in the file, too.
async fn the_configuration_before_stays(kind: Kind) -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let config = |data: &std::path::Path| scenario::config(&sink, data);
    let domain = ("local.test", &["alice"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    let (ingress, worker) = (home.ingress(), home.worker());
    for (process, section, wrong, words) in [
        (
            ingress,
            "ingress:\n",
            "  tls: {certificates: [{certificate: none.pem, key: none.key}]}\n",
            ["ingress.tls.certificates[0]: ", "none.pem: is not readable as PEM; check that"],
        ),
        (
            worker,
            "delivery:\n",
            "  sources: [{address: 192.0.2.9, name: out.test}]\n",
            ["delivery.sources[0].address: is no address of this machine", "(os error 99)"],
        ),
        (
            worker,
            "delivery:\n",
            "  tlsCaFile: none.pem\n",
            ["delivery.tlsCaFile cannot be read", "(os error 2)"],
        ),
    ] {
        let path = process.dir().join("postrider.yaml");
        let text = fs::read_to_string(&path)?;
        let mistaken = text.replacen(section, &format!("{section}{wrong}"), 1);
        ensure!(mistaken != text, "no {section:?} in {text}");
        let line = mistaken.lines().position(|line| wrong.trim_end() == line).context("a line")?;
        fs::write(&path, mistaken)?;
        let refused = process.cli(&["reload"]).await.err().context("taken up")?.to_string();
        let place = format!("postrider.yaml:{}:", line + 1);
        let is_said = words.into_iter().chain([&*place]).all(|said| refused.contains(said));
        ensure!(is_said, "{place} {words:?}: {refused}");
        fs::write(&path, text)?;
        process.cli(&["reload"]).await?;
    }
    home.stop(LIMIT).await
}
