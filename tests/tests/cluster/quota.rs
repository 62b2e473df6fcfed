//! Full mailboxes where each role is a process of its own: what the MDA finds, the ingress knows.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use tests::client::Client;
use tests::nats::Server;
use tests::process::Postrider;
use tests::quota::{self, Inbox};
use tests::{nats, scenario};

const ALICE: &str = "alice@local.test";
const LIMIT: Duration = Duration::from_secs(30);

fn process(role: &str, dir: &Path, server: &Server) -> Result<Postrider> {
    let dir = dir.join(role);
    let config = scenario::config_for_port(9, &dir.join("data"))
        + &format!(
            "jetstream:\n  urls: [{:?}]\n  monitorUrls: [{:?}]\n  replicas: 1\n  \
             timeoutSeconds: 3\n  intakeBytes: 1073741824\n  reserveBytes: 268435456\n",
            server.url(),
            server.monitor_url(),
        );
    let process = Postrider::of_role(role, &dir, &config)?;
    quota::write_domain(&process)?;
    Ok(process)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_mda_finds_full_the_ingress_refuses() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start_in(&dir.path().join("nats"), &nats::Settings::default()).await?;
    let mut ingress = process("ingress", dir.path(), &server)?;
    let mut mda = process("mda", dir.path(), &server)?;
    // The ingress finds no bucket yet, and refuses nobody.
    tokio::try_join!(ingress.start(), mda.start())?;
    let relay = ingress.address("relay");
    let alice = Inbox::find(ALICE, relay, &mda).await?;
    let bob = Inbox::find("bob@local.test", relay, &mda).await?;
    quota::ensure_opaque(&alice.directory, &dir.path().join("mda/data/mail"))?;
    alice.fill(452, "4.2.2").await?;
    bob.fill(552, "5.2.2").await?;
    alice.empty()?;
    alice.take_again().await?;

    // An ingress that starts later hears what was told before.
    ingress.stop(LIMIT).await?;
    ingress.start().await?;
    let relay = ingress.address("relay");
    let bob = Inbox { relay, ..bob };
    bob.until_rcpt(552).await?;
    ensure!(Client::rcpt(relay, ALICE).await? == 250, "alice has room");

    // What one MDA told, the next finds to be so no longer.
    mda.kill().await?;
    ensure!(Client::rcpt(relay, bob.address).await? == 552, "nobody has said otherwise");
    bob.empty()?;
    mda.start().await?;
    bob.take_again().await?;

    // Only ids are keys, and only full mailboxes have cost anything.
    let context = jetstream::new(async_nats::connect(server.url()).await?);
    let mut bucket = context.get_stream("KV_mailboxes").await?;
    let messages = bucket.info().await?.state.messages;
    ensure!(messages == 2, "{messages} records for two mailboxes");
    Ok(())
}
