//! Backup and restore of an MDA while mail flows: its mailboxes are its own, the queue is on the
//! servers and goes on (`replicas::backup` saves that).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::flood::{self, Recipients};
use tests::home::{Home, Kind};
use tests::load::{Books, Load};
use tests::sink::Sink;
use tests::{maildir, scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);
const BEFORE: usize = 50;

/// The subjects of Bob's messages that are numbers: those of [`flood`].
fn numbered(data: &Path) -> Option<BTreeSet<usize>> {
    let paths = maildir::messages(&data.join("mail")).ok()?;
    let number = |path: &PathBuf| {
        let content = fs::read_to_string(path).ok()?;
        content.lines().find_map(|line| line.strip_prefix("Subject: "))?.parse().ok()
    };
    Some(paths.iter().filter_map(number).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_mda_is_put_back_where_its_queue_still_is() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let config = |data: &Path| scenario::config(&sink, data);
    let domain = ("local.test", &["alice", "bob"][..]);
    let mut home = Home::start(Kind::Roles, &dir.path().join("home"), config, domain).await?;
    let submission = home.ingress().address("submission");
    let bob: Recipients = Arc::new(|_| vec!["bob@local.test".into()]);
    flood::send(submission, 4, 0..BEFORE, &bob).await?;
    let data = home.mda().dir().join("data");
    wait::until("mail before the backup", LIMIT, async || {
        (numbered(&data)?.len() == BEFORE).then_some(())
    })
    .await?;

    let books = Arc::new(Books::default());
    let load = Load::start(&books, submission, 4, scenario::seed());
    wait::until("mail to flow", LIMIT, async || (books.accepted() > 50).then_some(())).await?;
    let accepted = books.accepted();
    let backup = dir.path().join("backup").display().to_string();
    let told = home.mda().cli(&["backup", &backup, "--output", "json"]).await?;
    ensure!(books.accepted() > accepted, "no mail flowed while it was copied");
    let told: Value = serde_json::from_str(told.lines().last().context("no line")?)?;
    ensure!(told["backup"]["queue"] == "jetStream", "{told}");
    ensure!(told["backup"]["trees"]["mail"]["files"].as_u64() >= Some(BEFORE as u64), "{told}");
    ensure!(told["backup"]["trees"]["queue"]["files"] == 0, "{told}");
    load.stop().await;

    // It is lost with all that it had, and mail for it waits.
    home.mda_mut().kill().await?;
    fs::rename(home.mda().dir(), dir.path().join("lost"))?;
    flood::send(submission, 1, BEFORE..BEFORE + 10, &bob).await?;
    home.mda().cli(&["restore", &backup]).await?;
    ensure!(numbered(&data).context("no mailbox")?.len() == BEFORE, "not all of it is back");
    home.mda_mut().start().await?;
    wait::until("mail that waited", LIMIT, async || {
        (numbered(&data)?.len() == BEFORE + 10).then_some(())
    })
    .await?;
    home.stop(LIMIT).await
}
