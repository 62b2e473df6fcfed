//! Those who log in to one process: how much they may send, and their passwords.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::exposition::Exposition;
use tests::process::{PASSWORD, PASSWORD_HASH, Postrider};
use tests::sink::Sink;
use tests::{scenario, scram, wait};

const ALICE: &str = "alice@local.test";
const LIMIT: Duration = Duration::from_secs(60);
const CONTENT: &[u8] = b"From: <alice@local.test>\r\nSubject: x\r\n\r\nbody\r\n";
/// Alice with these passwords, `name: hash`, and what else her Mailbox says.
fn write_domain(postrider: &Postrider, passwords: &[(&str, &str)], more: &str) -> Result<()> {
    let mut yaml = format!(
        "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: d}}\nspec:\n  \
         domain: local.test\n  inbound: {{aliases: [{{match: postmaster, to: [{ALICE}]}}]}}\n\
         ---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\nmetadata: {{name: alice}}\n\
         spec:\n  address: {ALICE}\n{more}  passwords:\n"
    );
    for (name, hash) in passwords {
        yaml += &format!("  - {{name: {name}, hash: \"{hash}\"}}\n");
    }
    Ok(fs::write(postrider.dir().join("domains/local.test.yaml"), yaml)?)
}

async fn log_in(postrider: &Postrider, password: &str) -> Result<Client> {
    Client::submission(postrider.address("submission"), ALICE, password).await
}

async fn send(client: &mut Client) -> Result<String> {
    let reply = client.transaction(ALICE, &["friend@remote.test"], CONTENT).await?;
    if reply.code != 250 {
        client.command("RSET", 250).await?;
    }
    Ok(reply.text)
}

async fn start(dir: &Path, sink: &Sink) -> Result<Postrider> {
    let config = scenario::config(sink, &dir.join("data"));
    Postrider::new(&dir.join("etc"), &config)
}

fn logged(postrider: &Postrider, event: &str) -> Result<Vec<Value>> {
    Ok(postrider.log()?.into_iter().filter(|line| line["event"] == event).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_password_sends_no_flood() -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let mut postrider = start(dir.path(), &sink).await?;
    let limits = "  sendingLimits: {recipientsPerHour: 3}\n";
    write_domain(&postrider, &[("main", PASSWORD_HASH)], limits)?;
    postrider.start().await?;
    let mut client = log_in(&postrider, PASSWORD).await?;
    for _ in 0..3 {
        let reply = send(&mut client).await?;
        ensure!(reply.starts_with("250"), "{reply}");
    }
    for _ in 0..5 {
        let reply = send(&mut log_in(&postrider, PASSWORD).await?).await?;
        let says = "450 4.7.1 You send to 3 recipients an hour at most; try again in ";
        ensure!(reply.starts_with(says), "{reply}");
    }
    let told = logged(&postrider, "sending_limited")?;
    let [line] = &told[..] else { anyhow::bail!("{} lines: {told:#?}", told.len()) };
    ensure!(line["account"] == ALICE && line["limit"] == 3 && line["per"] == "hour", "{line:#}");
    ensure!(line["scope"] == "mailbox" && line["client"].is_string(), "{line:#}");
    let numbers = Exposition::of(&postrider).await?;
    let name = "postrider_ingress_sending_limited_total";
    ensure!(numbers.sum(name, "scope=\"mailbox\"") == 5.0, "{numbers:?}");
    ensure!(!format!("{:?}", numbers.samples).contains("alice"), "an address is a label");
    // Whoever raises the limit need not restart, and mail that was accepted arrives.
    write_domain(&postrider, &[("main", PASSWORD_HASH)], "")?;
    wait::until("room", LIMIT, async || {
        let mut client = log_in(&postrider, PASSWORD).await.ok()?;
        send(&mut client).await.ok()?.starts_with("250").then_some(())
    })
    .await?;
    wait::until("the messages at the sink", LIMIT, async || (sink.count() >= 4).then_some(())).await
}

async fn passwords(postrider: &Postrider) -> Result<Vec<Value>> {
    let said = postrider.cli(&["domain", "passwords", ALICE, "--output", "json"]).await?;
    said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_are_shown_with_their_last_use_and_revoked_one_by_one() -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let mut postrider = start(dir.path(), &sink).await?;
    write_domain(&postrider, &[("main", PASSWORD_HASH), ("phone", scram::HASH)], "")?;
    postrider.start().await?;
    let unused = passwords(&postrider).await?;
    ensure!(unused.iter().all(|password| password["lastUse"].is_null()), "{unused:#?}");
    let before = runtime::clock::now().unix_ms();
    let mut phone = log_in(&postrider, scram::PASSWORD).await?;
    let used = wait::until("the last use", LIMIT, async || {
        let found = passwords(&postrider).await.ok()?;
        found[1]["lastUse"].as_i64().is_some().then_some(found)
    })
    .await?;
    ensure!(used[1]["lastUse"].as_i64() >= Some(before), "{used:#?}");
    ensure!(used[1]["listener"] == "submission" && used[1]["scheme"] == "SCRAM-SHA-256");
    ensure!(used[0]["name"] == "main" && used[0]["scheme"] == "ARGON2ID", "{used:#?}");
    ensure!(used[0]["lastUse"].is_null(), "never used: {used:#?}");
    let table = postrider.cli(&["domain", "passwords", ALICE]).await?;
    ensure!(table.starts_with("NAME") && table.contains("never"), "{table}");
    let nobody = postrider.cli(&["domain", "passwords", "bob@local.test"]).await;
    let nobody = nobody.err().context("bob has passwords")?.to_string();
    ensure!(nobody.contains("nobody logs in as"), "{nobody}");

    // Lost: it is left out of the file.
    write_domain(&postrider, &[("main", PASSWORD_HASH)], "")?;
    wait::until("the end of the password", LIMIT, async || {
        let refused = log_in(&postrider, scram::PASSWORD).await.err()?;
        format!("{refused:#}").contains("535").then_some(())
    })
    .await?;
    phone.send(b"MAIL FROM:<alice@local.test>\r\n").await?;
    let reply = phone.reply().await?;
    ensure!(reply.code == 421, "{}", reply.text);
    let reply = send(&mut log_in(&postrider, PASSWORD).await?).await?;
    ensure!(reply.starts_with("250"), "{reply}");

    // What is known of uses outlives the process.
    write_domain(&postrider, &[("main", PASSWORD_HASH), ("phone", scram::HASH)], "")?;
    ensure!(postrider.stop(LIMIT).await? == Some(0), "it did not stop in order");
    let file = fs::read_to_string(dir.path().join("data/last-uses.json"))?;
    ensure!(!file.contains("127.0.0.1") && !file.contains("SCRAM"), "{file}");
    postrider.start().await?;
    let again = passwords(&postrider).await?;
    // It let in once more while the old table was in force.
    ensure!(again[1]["lastUse"].as_i64() >= used[1]["lastUse"].as_i64(), "{again:#?}");
    ensure!(again[0]["lastUse"].is_i64(), "{again:#?}");
    let log = fs::read_to_string(postrider.dir().join("postrider.log"))?;
    ensure!(!log.contains("WG5d8oPm") && !log.contains(scram::PASSWORD), "a secret is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_client_logs_in_by_scram() -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let mut postrider = start(dir.path(), &sink).await?;
    write_domain(&postrider, &[("main", PASSWORD_HASH), ("phone", scram::HASH)], "")?;
    postrider.start().await?;
    let submission = postrider.address("submission");
    scram::send(submission, ALICE, scram::PASSWORD).await?;
    wait::until("the message at the sink", LIMIT, async || (sink.count() == 1).then_some(()))
        .await?;
    // Of the other password there are no keys: it is refused like a wrong one.
    for wrong in [PASSWORD, "guess"] {
        let refused = scram::send(submission, ALICE, wrong).await.err().context("let in")?;
        ensure!(refused.to_string().contains("535"), "{refused}");
    }
    Ok(())
}
