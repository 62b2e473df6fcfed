//! Backup and restore: of a process that works, of one that does not run, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::ledger::content;
use tests::load::{Books, Load, SENDER};
use tests::process::{PASSWORD, Postrider, binary};
use tests::sink::Sink;
use tests::{scenario, wait};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

/// Small segments, and files of content.
fn config(sink: &Sink, data_dir: &Path) -> String {
    scenario::config(sink, data_dir) + "queue: {segmentBytes: 1048576, inlineBodyBytes: 65536}\n"
}

async fn run(args: &[&str]) -> Result<Output> {
    Ok(Command::new(binary()?).args(args).output().await?)
}

async fn restore(backup: &Path, to: &Path, more: &[&str]) -> Result<Output> {
    let (backup, to) = (backup.display().to_string(), to.display().to_string());
    run(&[&["restore", &backup, "--config", &to], more].concat()).await
}

fn said(output: &Output) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Every file below a directory with its content, so that a change is seen.
fn image(directory: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut image = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true => todo.push(path),
                false => image.push((path.clone(), fs::read(&path)?)),
            }
        }
    }
    image.sort();
    Ok(image)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_before_a_backup_is_in_it() -> Result<()> {
    let seed = scenario::seed();
    println!("seed {seed}");
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let first = config(&sink, &dir.path().join("first/data"));
    let mut old = Postrider::new(&dir.path().join("first"), &first)?;
    old.write_domain("local.test", &["alice", "bob"])?;
    old.start().await?;
    let books = Arc::new(Books::default());
    let load = Load::start(&books, old.address("submission"), 8, seed);
    wait::until("mail to flow", LIMIT, async || (books.accepted() > 200).then_some(())).await?;
    let kept = ["last-uses.json", "history/new"];
    wait::until("what is kept of mail and logins", LIMIT, async || {
        let has = |path: &&str| fs::metadata(old.dir().join("data").join(path));
        kept.iter().all(|path| has(path).is_ok_and(|it| it.len() > 0)).then_some(())
    })
    .await?;

    // What is accepted up to here is to be found again.
    let before = books.ledger.lock().expect("no client panics holding it").clone();
    let backup = dir.path().join("backup");
    let told = old.cli(&["backup", &backup.display().to_string(), "--output", "json"]).await?;
    ensure!(books.accepted() > before.len(), "no mail flowed while it was copied");
    let told: Value = serde_json::from_str(told.lines().last().context("no line")?)?;
    let trees = &told["backup"]["trees"];
    ensure!(trees["queue"]["files"].as_u64() > Some(1), "{told}");
    ensure!(trees["mail"]["files"].as_u64() > Some(20), "{told}");
    ensure!(trees["data"]["files"].as_u64() >= Some(3), "keys and certificates: {told}");
    let key = fs::metadata(backup.join("data/srs.key"))?;
    ensure!(key.permissions().mode() & 0o777 == 0o600, "others may read keys");
    let last_uses: Value = serde_json::from_slice(&fs::read(backup.join("data/last-uses.json"))?)?;
    ensure!(last_uses["logins"][SENDER].is_object(), "{last_uses}");
    let history = fs::read_to_string(backup.join("data/history/new"))?;
    let remains: Value = serde_json::from_str(history.lines().next().context("no history")?)?;
    ensure!(!remains["what"].is_null(), "{remains}");

    load.stop().await;
    let mut kills = vec![Instant::now()];
    old.kill().await?;
    kills.push(Instant::now());
    let second = dir.path().join("second");
    let mut new = Postrider::new(&second, &config(&sink, &second.join("data")))?;
    let restored = restore(&backup, &second, &[]).await?;
    ensure!(restored.status.success(), "{}", said(&restored));
    for path in kept.map(|path| Path::new("data").join(path)) {
        ensure!(fs::read(second.join(&path))? == fs::read(backup.join(&path))?, "{path:?}");
    }
    new.start().await?;
    let expected = Books::default();
    *expected.ledger.lock().expect("nobody else has it") = before;
    let (data, limit) = (second.join("data"), Duration::from_secs(120));
    let balance = scenario::settle(&[&old, &new], &data, &sink, &expected, &kills, limit).await?;
    println!("{balance}");
    ensure!(balance.is_clean(), "seed {seed}: {balance}");
    ensure!(new.stop(LIMIT).await? == Some(0), "it stops in order");
    // The domains and the key for bounces have come along.
    ensure!(second.join("domains/local.test.yaml").exists(), "no domains");
    let key = |of: &str| fs::read(dir.path().join(of).join("data/srs.key"));
    ensure!(key("first")? == key("second")?, "another key");
    Ok(())
}

/// A process with one message that its next hop does not take yet.
async fn deferred(dir: &Path, sink: &Sink) -> Result<Postrider> {
    let mut postrider = Postrider::new(dir, &config(sink, &dir.join("data")))?;
    postrider.write_domain("local.test", &["alice"])?;
    postrider.start().await?;
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let message = content("token", SENDER, &"a line of text\r\n".repeat(10_000));
    let reply = client.transaction(SENDER, &["friend@remote.test"], &message).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    wait::until("the message to be deferred", LIMIT, async || {
        let stats = postrider.cli(&["queue", "stats", "--output", "json"]).await.ok()?;
        let stats: Value = serde_json::from_str(&stats).ok()?;
        (stats["deferred"] == 1).then_some(())
    })
    .await?;
    Ok(postrider)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_mail_waits_for_its_release() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let is_open = Arc::new(Mutex::new(false));
    let door = Arc::clone(&is_open);
    let sink = Sink::with_verdict(Arc::new(move |_| {
        (!*door.lock().expect("no panic holding it")).then_some("451 4.7.1 come back later")
    }))
    .await?;
    let mut old = deferred(&dir.path().join("first"), &sink).await?;
    ensure!(old.stop(LIMIT).await? == Some(0), "it stops in order");
    let backup = dir.path().join("backup");
    // Nobody serves it: its files are at rest.
    old.cli(&["backup", &backup.display().to_string()]).await?;
    *is_open.lock().expect("no panic holding it") = true;

    // Nothing at all is there: the configuration comes from the backup. Its data is elsewhere.
    fs::rename(dir.path().join("first"), dir.path().join("lost"))?;
    let place = dir.path().join("first");
    let restored = restore(&backup, &place, &["--hold", "--output", "json"]).await?;
    ensure!(restored.status.success(), "{}", said(&restored));
    let told: Value = serde_json::from_str(said(&restored).lines().last().context("no line")?)?;
    ensure!(told["restored"]["queue"]["held"] == 1, "{told}");
    let yaml = fs::read_to_string(place.join("postrider.yaml"))?;
    let mut new = Postrider::new(&place, &yaml)?;
    new.start().await?;
    let stats: Value =
        serde_json::from_str(&new.cli(&["queue", "stats", "--output", "json"]).await?)?;
    ensure!(stats["held"] == 1 && stats["deferred"] == 0, "{stats}");
    ensure!(sink.count() == 0, "what is held was sent");
    new.cli(&["queue", "release", "--all"]).await?;
    wait::until("the message", LIMIT, async || (sink.count() == 1).then_some(())).await?;
    let received = sink.received();
    let text = String::from_utf8_lossy(&received[0].content);
    ensure!(text.trim_end().ends_with(&"a line of text\r\n".repeat(10_000).trim_end()), "changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_is_refused_and_changes_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(Arc::new(|_| Some("451 4.7.1 come back later"))).await?;
    let first = dir.path().join("first");
    let mut postrider = deferred(&first, &sink).await?;
    let backup = dir.path().join("backup");
    postrider.cli(&["backup", &backup.display().to_string()]).await?;
    let again = postrider.cli(&["backup", &backup.display().to_string()]).await;
    let again = again.err().context("a backup was written over")?.to_string();
    ensure!(again.contains("is not empty"), "{again}");
    let inside = postrider.cli(&["backup", &first.join("data/x").display().to_string()]).await;
    let inside = inside.err().context("it would never end")?.to_string();
    ensure!(inside.contains("name a directory elsewhere"), "{inside}");
    std::os::unix::fs::symlink(first.join("data"), dir.path().join("link"))?;
    let inside = postrider.cli(&["backup", &dir.path().join("link/x").display().to_string()]).await;
    let inside = inside.err().context("it would never end")?.to_string();
    ensure!(inside.contains("name a directory elsewhere"), "{inside}");

    // Where a process runs, or anything is.
    let before = image(&first.join("domains"))?;
    let refused = restore(&backup, &first, &[]).await?;
    ensure!(
        !refused.status.success() && said(&refused).contains("data is not empty"),
        "{refused:?}"
    );
    ensure!(image(&first.join("domains"))? == before, "it changed something");

    // One octet of a message in the queue.
    let elsewhere = dir.path().join("elsewhere");
    Postrider::new(&elsewhere, &config(&sink, &elsewhere.join("data")))?;
    let empty = image(&elsewhere)?;
    let body = fs::read_dir(backup.join("queue/content"))?.next().context("no body")??.path();
    let whole = fs::read(&body)?;
    let mut octets = whole.clone();
    octets[1000] ^= 1;
    fs::write(&body, &octets)?;
    let refused = restore(&backup, &elsewhere, &[]).await?;
    let named = format!("{} is not as it was saved", body.display());
    ensure!(!refused.status.success() && said(&refused).contains(&named), "{}", said(&refused));
    ensure!(image(&elsewhere)? == empty, "it made something");
    ensure!(!elsewhere.join("data").exists(), "it made something");
    fs::write(&body, &whole)?;

    // With the saved configuration, whose data is where a process runs.
    let nowhere = dir.path().join("nowhere");
    let refused = restore(&backup, &nowhere, &[]).await?;
    ensure!(said(&refused).contains("data is not empty"), "{}", said(&refused));
    ensure!(!nowhere.exists(), "it made something");

    // One that was ended in the middle: the file takes long to copy.
    ensure!(postrider.stop(LIMIT).await? == Some(0), "it stops in order");
    fs::File::create(first.join("data/large"))?.set_len(64 << 30)?;
    let half = dir.path().join("half");
    let mut child = Command::new(binary()?)
        .args(["backup", &half.display().to_string(), "--config", &first.display().to_string()])
        .kill_on_drop(true)
        .spawn()?;
    let copied = half.join("data/large");
    wait::until("the backup to be under way", LIMIT, async || copied.exists().then_some(()))
        .await?;
    child.kill().await?;
    fs::remove_file(&copied)?;
    fs::remove_file(first.join("data/large"))?;
    fs::rename(&first, dir.path().join("lost"))?;
    let refused = restore(&half, &first, &[]).await?;
    ensure!(
        !refused.status.success() && said(&refused).contains("was not finished"),
        "{refused:?}"
    );
    ensure!(!first.exists(), "it made something");

    // One that is whole goes there now; half of it is not served.
    let restored = restore(&backup, &first, &[]).await?;
    ensure!(restored.status.success(), "{}", said(&restored));
    fs::write(first.join("data/restoring"), "")?;
    let refused = run(&["serve", &first.display().to_string()]).await?;
    ensure!(refused.status.code() == Some(64), "{refused:?}");
    ensure!(said(&refused).contains("a restore has begun and has not ended"), "{refused:?}");
    let of_half = dir.path().join("of-half");
    let paths = [&of_half, &first].map(|path| path.display().to_string());
    let refused = run(&["backup", &paths[0], "--config", &paths[1]]).await?;
    ensure!(refused.status.code() == Some(64), "{refused:?}");
    ensure!(said(&refused).contains("a restore has begun and has not ended"), "{refused:?}");
    ensure!(!of_half.exists(), "it made something");
    Ok(())
}
