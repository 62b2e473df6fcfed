//! A domain table of many mailboxes: what it takes to publish, to load, to keep and to ask.
//!
//! 20,000 mailboxes in 200 domains; with POSTRIDER_LONG a million in 10,000.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::keys::Keys;
use tests::nats::{Cluster, Settings};
use tests::process::{Postrider, domain_yaml};
use tests::{scenario, wait};

const MAILBOXES: usize = 100;
/// What the process has anyway, the memory for checking a password included.
const PROCESS_KIB: u64 = 48 * 1024;
/// For each mailbox: 150 MB for a million.
const MAILBOX_OCTETS: u64 = 150;
/// Replies to RCPT that are measured.
const SAMPLES: usize = 2_000;
/// In one session: fewer than make the server think ill of a client.
const A_SESSION: usize = 5;

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

    fn write_domain(&self, n: usize, mailboxes: usize) -> Result<()> {
        let domain = format!("d{n}.test");
        let names: Vec<String> = (0..mailboxes).map(|m| format!("user{m}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let yaml = domain_yaml(&domain, &names)?;
        let yaml = yaml.replace("{name: d}", &format!("{{name: d{n}}}"));
        let yaml = yaml.replace("{name: m-", &format!("{{name: d{n}-"));
        fs::write(self.writer.dir().join(format!("domains/{domain}.yaml")), yaml)?;
        Ok(())
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

    /// The memory of the ingress in KiB: what it has, and the most that it had.
    fn memory(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.ingress.pid()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).context("no such field")
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// How long replies to RCPT take: the middle one and that of 99 %.
    async fn ask(&self, recipient: impl Fn(usize) -> String, code: u16) -> Result<[Duration; 2]> {
        let mut times = Vec::with_capacity(SAMPLES);
        while times.len() < SAMPLES {
            let mut client = Client::connect(self.ingress.address("relay")).await?;
            client.command("EHLO client.test", 250).await?;
            client.command("MAIL FROM:<a@elsewhere.test>", 250).await?;
            for _ in 0..A_SESSION {
                let recipient = recipient(times.len());
                let begun = Instant::now();
                client.command(&format!("RCPT TO:<{recipient}>"), code).await?;
                times.push(begun.elapsed());
            }
        }
        times.sort();
        Ok([times[SAMPLES / 2], times[SAMPLES * 99 / 100]])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_mailboxes_are_small_and_quick() -> Result<()> {
    let (domains, servers) = if scenario::is_long() { (10_000, 3) } else { (200, 1) };
    let all = domains * MAILBOXES;
    let limit = Duration::from_secs(120);
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), servers).await?;
    world.write_domain(0, 1)?;
    world.apply().await?;
    world.ingress.start().await?;
    world.until_generation(1, limit).await?;

    for n in 0..domains {
        world.write_domain(n, MAILBOXES)?;
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
    let (kib, most_kib) = world.memory()?;
    println!("memory {kib} KiB, at most {most_kib} KiB");

    let spread = |n: usize| (n * 7919 % domains, n * 104_729 % MAILBOXES);
    let known = |n| {
        let (d, m) = spread(n);
        format!("user{m}@d{d}.test")
    };
    let known = world.ask(known, 250).await?;
    let unknown = |n| {
        let (d, m) = spread(n);
        format!("nobody{m}@d{d}.test")
    };
    let unknown = world.ask(unknown, 550).await?;
    let same = world.ask(|_| "user0@d0.test".to_owned(), 250).await?;
    println!("RCPT p50 and p99: known {known:?}, unknown {unknown:?}; always the same {same:?}");

    world.write_domain(3, MAILBOXES + 1)?;
    let (applied, second) = world.apply().await?;
    println!("one more: {applied} in {second:.1?}");
    ensure!(applied["written"] == 1 && applied["dropped"] == 0, "{applied}");
    world.until_generation(applied["generation"].as_u64().context("no number")?, limit).await?;
    let (after_kib, most_kib) = world.memory()?;
    println!("memory after it {after_kib} KiB, at most {most_kib} KiB");

    let most = PROCESS_KIB + all as u64 * MAILBOX_OCTETS / 1024;
    ensure!(after_kib < most, "{after_kib} KiB, and {most} KiB are foreseen");
    ensure!(known[0] < same[0] * 5 + Duration::from_millis(1), "many mailboxes are slow");
    if scenario::is_long() {
        ensure!(most_kib < 200 * 1024, "more than 200 MB: {most_kib} KiB");
        ensure!(known[1] < Duration::from_millis(5), "known: {known:?}");
        ensure!(unknown[1] < Duration::from_millis(50), "unknown: {unknown:?}");
    }
    Ok(())
}
