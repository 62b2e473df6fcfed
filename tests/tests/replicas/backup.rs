//! Streams and table are backed up while mail is accepted, all servers lose everything, and the
//! backup brings back all that was accepted before it, as `docs/operations.md` says.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::flood::{self, Recipients};
use tests::keys::Keys;
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{maildir, tools, wait};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(120);
/// Messages of each kind.
const COUNT: usize = 40;
/// Messages that are in Bob's mailbox before.
const EARLIER: usize = 10;
/// Octets of content that goes in chunks.
const LARGE: usize = 1 << 20;

/// `nats` with these arguments; gives its stdout.
async fn nats(mesh: &Mesh, home: &Path, args: &[&str]) -> Result<String> {
    let mut nats = Command::new(tools::path("nats-cli/bin/nats")?);
    nats.args(["--server", &mesh.servers.urls().join(",")]).args(args);
    // Its settings are not the user's.
    nats.env("XDG_CONFIG_HOME", home).env("HOME", home);
    let output = nats.output().await?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    ensure!(output.status.success(), "nats {args:?}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

/// Every stream but who owns what, each into a directory of its own: what refers before what is
/// referred to.
async fn backup(mesh: &Mesh, dir: &Path) -> Result<Vec<PathBuf>> {
    let names = nats(mesh, dir, &["stream", "ls", "--names"]).await?;
    let names: BTreeSet<&str> = names.lines().map(str::trim).collect();
    let mut saved = Vec::new();
    for name in names.into_iter().rev().filter(|name| !["", "KV_own", "KV_sending"].contains(name))
    {
        let target = dir.join(name);
        let path = target.to_str().context("a path")?;
        nats(mesh, dir, &["backup", "stream", name, path, "--no-progress"]).await?;
        saved.push(target);
    }
    ensure!(saved.len() > 10, "{saved:?}");
    Ok(saved)
}

async fn restore(mesh: &Mesh, dir: &Path, saved: &[PathBuf]) -> Result<()> {
    for stream in saved {
        let path = stream.to_str().context("a path")?;
        nats(mesh, dir, &["backup", "restore", "stream", path, "--no-progress"]).await?;
    }
    Ok(())
}

/// Asks for a recipient that there is again and again; gives what was answered.
async fn ask(address: SocketAddr, stop: CancellationToken) -> BTreeSet<u16> {
    let mut codes = BTreeSet::new();
    while !stop.is_cancelled() {
        codes.extend(Client::rcpt(address, "bob@local.test").await.ok());
    }
    codes
}

/// An ingress that has its table from the servers.
async fn ingress_of_table(mesh: &Mesh, dir: &Path) -> Result<Postrider> {
    let path = mesh.ingresses[0].dir().join("postrider.yaml");
    let config = fs::read_to_string(&path)?;
    let data = dir.join("data");
    fs::create_dir_all(&data)?;
    let keys = Keys::make(&dir.join("keys")).await?;
    // Only the command line reads it again.
    fs::write(&path, config.clone() + &keys.of_writer())?;
    let lines = config.lines().map(|line| match line.starts_with("dataDir:") {
        true => format!("dataDir: {}\n", data.display()),
        false => format!("{line}\n"),
    });
    let opens = Keys::of_role(&[keys.file("passwords.key")]);
    let config = lines.collect::<String>() + "domainsFrom: kv\n" + &opens;
    let mut ingress = Postrider::of_role("ingress", dir, &config)?;
    mesh.ingresses[0].cli(&["domain", "apply"]).await?;
    ingress.start().await?;
    Ok(ingress)
}

async fn listed(process: &Postrider, args: &[&str]) -> Option<usize> {
    let args = [&["queue", "list", "--output", "json"], args].concat();
    Some(process.cli(&args).await.ok()?.lines().count())
}

/// Stops who works on the queue: nothing in it moves.
async fn stop_work(mesh: &mut Mesh) -> Result<()> {
    for process in mesh.workers.iter_mut().chain([&mut mesh.mda]) {
        let code = process.stop(LIMIT).await?;
        ensure!(code == Some(0), "exit code {code:?}");
    }
    Ok(())
}

async fn start_work(mesh: &mut Mesh) -> Result<()> {
    for process in mesh.workers.iter_mut().chain([&mut mesh.mda]) {
        process.start().await?;
    }
    Ok(())
}

/// Mail that waits for its first attempt: for one and for two next hops, large, for a mailbox,
/// and such as will bounce.
async fn accept_waiting(address: SocketAddr) -> Result<()> {
    let recipients: Recipients = Arc::new(|n| match n % 4 {
        0 => vec![format!("one-{n}@far.test")],
        1 => vec![format!("two-{n}@far.test"), format!("two-{n}@other.test")],
        2 => vec!["bob@local.test".into()],
        _ => vec![format!("refuse-{n}@far.test")],
    });
    flood::send(address, 4, 0..COUNT, &recipients).await?;
    let mut client = Client::submission(address, SENDER, PASSWORD).await?;
    let content = format!("From: <{SENDER}>\r\n\r\n{}", "large\r\n".repeat(LARGE / 7));
    flood::message(&mut client, &["large@far.test".into()], content.as_bytes()).await
}

/// Whether all of it has arrived: at the sink, in Bob's mailbox, and as a DSN in Alice's.
fn has_arrived(sink: &Sink, mail: &Path) -> Option<()> {
    let received = sink.received();
    let at: BTreeSet<&str> =
        received.iter().flat_map(|one| &one.recipients).map(String::as_str).collect();
    let quarter = COUNT / 4;
    let is = |name: &str| at.iter().filter(|recipient| recipient.starts_with(name)).count();
    let large = received.iter().find(|one| one.recipients == ["large@far.test"])?;
    let paths = maildir::messages(mail).ok()?;
    let stored: Vec<String> =
        paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let told: BTreeSet<&str> = stored
        .iter()
        .filter_map(|content| {
            let from = content.find("Final-Recipient: rfc822; refuse-")?;
            content[from..].lines().next()
        })
        .collect();
    let bobs = stored.iter().filter(|content| !content.contains("Final-Recipient")).count();
    let all = is("one-") == quarter && is("two-") == 2 * quarter && told.len() == quarter;
    (all && bobs >= EARLIER + quarter && large.content.len() > LARGE).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_brings_back_what_was_accepted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let opened = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&opened);
    let sink = Sink::with_verdict(Arc::new(move |recipient| match recipient {
        _ if recipient.starts_with("refuse-") => Some("550 5.1.1 no such user"),
        _ if recipient.starts_with("later-") && !is_open.load(Ordering::SeqCst) => {
            Some("451 4.7.1 tomorrow")
        }
        _ => None,
    }))
    .await?;
    let route = format!(
        "{{domain: .later.test, host: \"127.0.0.1\", port: {}, \
         retry: {{intervalsSeconds: [86400], repeatSeconds: 86400}}}}",
        sink.address().port()
    );
    let size = Size { ingresses: 1, workers: 2, routes: vec![route], ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    let ingress = ingress_of_table(&mesh, &dir.path().join("of-table")).await?;
    let submission = mesh.ingresses[0].address("submission");
    let relay = ingress.address("relay");
    let mail = mesh.mda_data().join("mail");
    let stop = CancellationToken::new();
    let mut asking = JoinSet::new();
    asking.spawn(ask(relay, stop.clone()));

    // Deferred mail, a half of it held.
    let later: Recipients = Arc::new(|n| vec![format!("later-{n}@d{}.later.test", n % 2)]);
    flood::send(submission, 4, 0..COUNT, &later).await?;
    wait::until("deferred mail", LIMIT, async || {
        (listed(&mesh.workers[0], &["--phase", "deferred"]).await? == COUNT).then_some(())
    })
    .await?;
    mesh.workers[0].cli(&["queue", "hold", "--recipient-domain", "d1.later.test"]).await?;

    let bob: Recipients = Arc::new(|_| vec!["bob@local.test".into()]);
    flood::send(submission, 2, 0..EARLIER, &bob).await?;
    wait::until("earlier mail", LIMIT, async || {
        (maildir::messages(&mail).ok()?.len() == EARLIER).then_some(())
    })
    .await?;

    // The backup, and mail that comes meanwhile.
    stop_work(&mut mesh).await?;
    accept_waiting(submission).await?;
    let backup_dir = dir.path().join("backup");
    fs::create_dir_all(&backup_dir)?;
    let meanwhile: Recipients = Arc::new(|n| vec![format!("meanwhile-{n}@far.test")]);
    let (saved, sent) = tokio::join!(
        backup(&mesh, &backup_dir),
        flood::send(submission, 2, 0..10 * COUNT, &meanwhile)
    );
    let saved = saved?;
    sent?;
    let mailboxes = dir.path().join("mailboxes").display().to_string();
    mesh.mda.cli(&["backup", &mailboxes]).await?;

    // All of it is delivered, and then everything is lost.
    start_work(&mut mesh).await?;
    wait::until("the mail before", LIMIT, async || has_arrived(&sink, &mail)).await?;
    stop_work(&mut mesh).await?;
    sink.take();
    fs::remove_dir_all(mesh.mda_data())?;
    mesh.servers.wipe(LIMIT).await?;
    restore(&mesh, &backup_dir, &saved).await?;
    mesh.mda.cli(&["restore", &mailboxes]).await?;
    start_work(&mut mesh).await?;

    wait::until("the mail again", LIMIT, async || has_arrived(&sink, &mail)).await?;
    let held = listed(&mesh.workers[0], &["--phase", "held"]).await.context("no list")?;
    ensure!(held == COUNT / 2, "{held} are held");
    let deferred = listed(&mesh.workers[0], &["--phase", "deferred"]).await.context("no list")?;
    ensure!(deferred == COUNT / 2, "{deferred} are deferred");
    opened.store(true, Ordering::SeqCst);
    mesh.workers[0].cli(&["queue", "release", "--phase", "held"]).await?;
    mesh.workers[0].cli(&["queue", "retry", "--phase", "deferred"]).await?;
    wait::until("the deferred mail", LIMIT, async || {
        let received = sink.received();
        let later = received.iter().filter(|one| one.recipients[0].starts_with("later-"));
        (later.count() == COUNT).then_some(())
    })
    .await?;
    wait::until("an empty queue", LIMIT, async || {
        (listed(&mesh.workers[0], &[]).await? == 0).then_some(())
    })
    .await?;

    // The table is what it was, and nobody was refused for good while it was not there.
    wait::until("an answer", LIMIT, async || {
        (Client::rcpt(relay, "bob@local.test").await.ok()? == 250).then_some(())
    })
    .await?;
    wait::until("an answer", LIMIT, async || {
        (Client::rcpt(relay, "nobody@local.test").await.ok()? == 550).then_some(())
    })
    .await?;
    stop.cancel();
    let codes = asking.join_next().await.context("nobody asked")??;
    println!("{} streams; RCPT was answered {codes:?} all the while", saved.len());
    ensure!(codes.iter().all(|code| *code < 500) && codes.contains(&250), "{codes:?}");
    drop(ingress);
    mesh.stop(LIMIT).await
}
