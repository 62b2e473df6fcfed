//! Each role takes up what concerns it of a changed configuration, and saves what it has.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::ledger::content;
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::process::{PASSWORD, Postrider, binary};
use tests::sink::Sink;
use tests::{maildir, wait};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);
const LISTENING: &str = "kind: relay, addresses: [\"127.0.0.1:0\"]";

fn change(process: &Postrider, from: &str, to: &str) -> Result<()> {
    let path = process.dir().join("postrider.yaml");
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(from), "{from:?} is not in {text}");
    Ok(fs::write(path, text.replacen(from, to, 1))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_reload_and_save_what_is_theirs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (sink, here, there) = (Sink::start().await?, Sink::start().await?, Sink::start().await?);
    let port = |sink: &Sink| format!("port: {}}}", sink.address().port());
    let route = format!("{{domain: moving.test, host: \"127.0.0.1\", {}", port(&here));
    let small = Size { servers: 1, ingresses: 1, workers: 1, ..Size::default() };
    let size = Size {
        routes: vec![route],
        ingress: vec!["limits: {messageSizeBytes: 20000000}".into()],
        ..small
    };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    for process in mesh.processes() {
        change(process, &port(&here), &port(&there))?;
        change(process, "20000000", "30000000")?;
    }
    let (ingress, worker) = (&mesh.ingresses[0], &mesh.workers[0]);
    for process in [worker, &mesh.mda] {
        // They have no listener.
        change(process, LISTENING, "kind: relay, addresses: [\"127.0.0.2:0\"]")?;
    }
    for process in mesh.processes() {
        let told = process.cli(&["reload"]).await?;
        let name = process.role();
        ensure!(told.starts_with("changed: delivery.routes, ingress."), "{name}: {told}");
    }
    change(ingress, LISTENING, "kind: relay, addresses: [\"127.0.0.2:0\"]")?;
    let refused = ingress.cli(&["reload"]).await.err().context("taken up")?.to_string();
    ensure!(refused.contains("ingress.listeners needs a restart"), "{refused}");

    let mut client = Client::submission(ingress.address("submission"), SENDER, PASSWORD).await?;
    let hello = client.command("EHLO client.test", 250).await?;
    ensure!(hello.text.contains("SIZE 30000000"), "{}", hello.text);
    let message = content("token", SENDER, "text");
    let to = ["x@moving.test", "bob@local.test"];
    let reply = client.transaction(SENDER, &to, &message).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    wait::until("the new route", LIMIT, async || (there.count() == 1).then_some(())).await?;
    ensure!(here.count() == 0, "the old route was taken");
    let mail = mesh.mda_data().join("mail");
    wait::until("the mailbox", LIMIT, async || {
        maildir::messages(&mail).is_ok_and(|found| found.len() == 1).then_some(())
    })
    .await?;

    // Its queue is not on its disk.
    let backup = dir.path().join("backup").display().to_string();
    let told = mesh.mda.cli(&["backup", &backup, "--output", "json"]).await?;
    let told: Value = serde_json::from_str(told.lines().last().context("no line")?)?;
    ensure!(told["backup"]["queue"] == "jetStream", "{told}");
    ensure!(told["backup"]["trees"]["queue"]["files"] == 0, "{told}");
    mesh.stop(LIMIT).await?;
    let (place, lost) = (mesh.mda.dir().to_owned(), dir.path().join("lost"));
    fs::rename(&place, lost)?;
    let restore = ["restore", &backup, "--config", &place.display().to_string()].map(str::to_owned);
    let restored = Command::new(binary()?).args(restore).output().await?;
    ensure!(restored.status.success(), "{restored:?}");
    ensure!(maildir::messages(&mail)?.len() == 1, "the mailbox is not there again");
    Ok(())
}
