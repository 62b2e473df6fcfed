//! A domain table of many mailboxes: what it takes to publish, to load, to keep and to ask.
//!
//! 20,000 mailboxes in 200 domains; with POSTRIDER_LONG a million in 10,000.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::crowd::{self, MAILBOXES};
use tests::keys::Keys;
use tests::memory::{self, mib};
use tests::nats::{Cluster, Settings};
use tests::process::Postrider;
use tests::{scenario, wait};

/// What the process has anyway, the memory for checking a password included.
const PROCESS: u64 = 48 << 20;
/// For each mailbox: 150 MB for a million.
const MAILBOX_OCTETS: u64 = 150;

/// Servers, a directory to publish from, and an ingress.
struct World {
    _servers: Cluster,
    writer: Postrider,
    ingress: Postrider,
}

impl World {
    async fn start(dir: &Path, servers: usize) -> Result<Self> {
        let servers = Cluster::start_in(&dir.join("nats"), servers, &Settings::default()).await?;
        let keys = Keys::make(&dir.join("keys")).await?;
        let jetstream = format!(
            "jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: {}\n  \
             timeoutSeconds: 20\n  intakeBytes: 1073741824\n  reserveBytes: 268435456\n",
            servers.urls(),
            servers.monitor_urls(),
            servers.urls().len(),
        );
        let process = |role: &str, name: &str, more: &str| {
            let dir = dir.join(name);
            let config = scenario::config_for_port(9, &dir.join("data"));
            Postrider::of_role(role, &dir, &(config + &jetstream + more))
        };
        let of_role = Keys::of_role(&[keys.file("passwords.key")]);
        let writer = process("serve", "writer", &keys.of_writer())?;
        let ingress = process("ingress", "ingress", &format!("domainsFrom: kv\n{of_role}"))?;
        Ok(Self { _servers: servers, writer, ingress })
    }

    async fn apply(&self) -> Result<(Value, Duration)> {
        let begun = Instant::now();
        let said = self.writer.cli(&["domain", "apply", "--output", "json"]).await?;
        Ok((serde_json::from_str(&said)?, begun.elapsed()))
    }

    /// Waits until the ingress has a generation.
    async fn until_generation(&self, generation: u64, limit: Duration) -> Result<()> {
        wait::until("the generation", limit, async || {
            let log = self.ingress.log().ok()?;
            log.iter().any(|line| line["generation"] == generation).then_some(())
        })
        .await
    }

    /// The memory of the ingress in MiB: what it has, and the most that it had.
    fn memory(&self) -> Result<(u64, u64)> {
        let pid = self.ingress.pid();
        Ok((mib(memory::resident(pid)?), mib(memory::peak(pid)?)))
    }

    async fn ask(&self, recipient: impl Fn(usize) -> String, code: u16) -> Result<[Duration; 2]> {
        crowd::ask(self.ingress.address("relay"), recipient, code).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_mailboxes_are_small_and_quick() -> Result<()> {
    let (domains, servers) = if scenario::is_long() { (10_000, 3) } else { (200, 1) };
    let all = domains * MAILBOXES;
    let limit = Duration::from_secs(120);
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), servers).await?;
    crowd::write_domain(world.writer.dir(), 0, 1)?;
    world.apply().await?;
    world.ingress.start().await?;
    world.until_generation(1, limit).await?;

    for n in 0..domains {
        crowd::write_domain(world.writer.dir(), n, MAILBOXES)?;
    }
    let (applied, first) = world.apply().await?;
    ensure!(applied["mailboxes"] == all, "{applied}");
    println!("{all} mailboxes in {domains} domains on {servers} servers: applied in {first:.1?}");
    world.ingress.kill().await?;
    let begun = Instant::now();
    world.ingress.start().await?;
    wait::until("the table", limit, async || {
        let mut client = Client::connect(world.ingress.address("relay")).await.ok()?;
        client.command("EHLO client.test", 250).await.ok()?;
        client.command("MAIL FROM:<a@elsewhere.test>", 250).await.ok()?;
        client.command("RCPT TO:<user99@d7.test>", 250).await.ok().map(drop)
    })
    .await?;
    println!("loaded in {:.1?} from the start of the process", begun.elapsed());
    let (resident, most) = world.memory()?;
    println!("memory {resident} MiB, at most {most} MiB");

    let known = world.ask(|n| crowd::mailbox(n, domains), 250).await?;
    let unknown = world.ask(|n| crowd::stranger(n, domains), 550).await?;
    let same = world.ask(|_| "user0@d0.test".to_owned(), 250).await?;
    println!("RCPT p50 and p99: known {known:?}, unknown {unknown:?}; always the same {same:?}");

    crowd::write_domain(world.writer.dir(), 3, MAILBOXES + 1)?;
    let (applied, second) = world.apply().await?;
    println!("one more: {applied} in {second:.1?}");
    ensure!(applied["written"] == 1 && applied["dropped"] == 0, "{applied}");
    world.until_generation(applied["generation"].as_u64().context("no number")?, limit).await?;
    let foreseen = PROCESS + all as u64 * MAILBOX_OCTETS;
    let ask = async || world.ask(|n| crowd::mailbox(n, domains), 250).await.map(drop);
    let after = mib(memory::until_below_while(world.ingress.pid(), foreseen, ask).await?);
    let most = mib(memory::peak(world.ingress.pid())?);
    println!("memory after it {after} MiB, at most {most} MiB");

    ensure!(known[0] < same[0] * 5 + Duration::from_millis(1), "many mailboxes are slow");
    if scenario::is_long() {
        ensure!(most < 200, "more than 200 MB: {most} MiB");
        ensure!(known[1] < Duration::from_millis(5), "known: {known:?}");
        ensure!(unknown[1] < Duration::from_millis(50), "unknown: {unknown:?}");
    }
    Ok(())
}
