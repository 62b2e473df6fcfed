//! The domain table in NATS KV: whatever happens to it, no mailbox that exists is answered 550.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, kv};
use domains::{Settings, Table};
use domains_kv::{Progress, PublishError, Shrinking};
use serde_json::{Value, json};
use tests::client::Client;
use tests::keys::Keys;
use tests::nats::Cluster;
use tests::process::{Postrider, domain_yaml};
use tests::{health, nats, scenario, wait};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(30);
/// To see that nobody answers, to elect others and to come to one of them: far less than the two
/// minutes of the client library.
const STOPPED_MAX: Duration = Duration::from_secs(45);
const ALICE: &str = "alice@local.test";
const BOB: &str = "bob@local.test";
const NOBODY: &str = "nobody@local.test";
/// Of what a check finds.
const ERROR: &str = r#""level":"error""#;
const OK: &str = r#""level":"ok""#;

/// Servers, a directory to publish from, and an ingress that takes its table from the bucket.
struct World {
    servers: Cluster,
    operator: Postrider,
    ingress: Postrider,
}

impl World {
    async fn start(dir: &Path, servers: usize) -> Result<Self> {
        let settings = nats::Settings::default();
        let servers = Cluster::start_in(&dir.join("nats"), servers, &settings).await?;
        let config = |role: &str, more: &str| {
            let config = scenario::config_for_port(9, &dir.join(role).join("data"));
            config + &jetstream_section(&servers) + more
        };
        let keys = Keys::make(&dir.join("keys")).await?;
        let of_writer = config("operator", &keys.of_writer());
        let operator = Postrider::of_role("serve", &dir.join("operator"), &of_writer)?;
        let of_role = Keys::of_role(&[keys.file("passwords.key")]);
        let kv = config("ingress", &format!("domainsFrom: kv\n{of_role}"));
        let ingress = Postrider::of_role("ingress", &dir.join("ingress"), &kv)?;
        Ok(Self { servers, operator, ingress })
    }

    /// Publishes `local.test` with these mailboxes; gives what the command said.
    async fn apply(&self, mailboxes: &[&str]) -> Result<Value> {
        self.operator.write_domain("local.test", mailboxes)?;
        let said = self.operator.cli(&["domain", "apply", "--output", "json"]).await?;
        Ok(serde_json::from_str(&said)?)
    }

    async fn rcpt(&self, recipient: &str) -> Result<u16> {
        Client::rcpt(self.ingress.address("relay"), recipient).await
    }

    /// Waits for a reply to RCPT. A `550` on the way is wrong if the recipient exists.
    async fn until_rcpt(&self, recipient: &str, code: u16) -> Result<()> {
        let what = format!("{code} for {recipient}");
        wait::until(&what, LIMIT, async || match self.rcpt(recipient).await {
            Ok(found) if found == code => Some(Ok(())),
            Ok(550) => Some(Err(anyhow::anyhow!("550 for {recipient}"))),
            Ok(_) | Err(_) => None,
        })
        .await?
    }

    async fn restart_ingress(&mut self) -> Result<()> {
        self.ingress.kill().await?;
        self.ingress.start().await
    }

    async fn bucket(&self) -> Result<(jetstream::Context, kv::Store)> {
        let client = async_nats::connect(self.servers.urls()).await?;
        let context = jetstream::new(client);
        let store = context.get_key_value("domains").await?;
        Ok((context, store))
    }

    async fn wipe(&self) -> Result<()> {
        let (context, _) = self.bucket().await?;
        context.get_stream("KV_domains").await?.purge().await?;
        Ok(())
    }

    async fn is_ready(&self) -> Result<bool> {
        health::is_ready(self.ingress.address("http")).await
    }
}

fn jetstream_section(servers: &Cluster) -> String {
    format!(
        "jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: {}\n  timeoutSeconds: 5\n  \
         intakeBytes: 1073741824\n  reserveBytes: 268435456\n",
        servers.urls(),
        servers.monitor_urls(),
        servers.urls().len(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_the_files_is_not_published() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), 1).await?;
    let applied = world.apply(&["alice"]).await?;
    world.ingress.start().await?;
    world.until_rcpt(ALICE, 250).await?;
    let wrong = domain_yaml("local.test", &["alice", "bob"])?;
    let wrong = wrong.replace("address: bob@local.test", "adress: bob@local.test");
    let line = wrong.lines().position(|line| line.contains("adress")).context("no line")? + 1;
    fs::write(world.operator.dir().join("domains/local.test.yaml"), wrong)?;
    let said = world.operator.cli(&["domain", "apply"]).await;
    let said = said.err().context("it was published")?.to_string();
    ensure!(said.contains(&format!("local.test.yaml:{line}")) && said.contains("adress"), "{said}");
    ensure!(world.rcpt(BOB).await? == 550, "half of a wrong file is in force");
    // It took no generation.
    let again = world.apply(&["alice", "bob"]).await?;
    let next = applied["generation"].as_u64().map(|generation| generation + 1);
    ensure!(next.is_some() && again["generation"].as_u64() == next, "{applied} {again}");
    wait::until("Bob", LIMIT, async || (world.rcpt(BOB).await.ok()? == 250).then_some(())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_loads_the_table_that_was_published() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = World::start(dir.path(), 1).await?;
    let found = async |what: &str| {
        let (findings, _) = world.ingress.check_live().await?;
        let lines = findings.iter().filter(|finding| finding["what"] == what);
        Ok::<String, anyhow::Error>(lines.map(|finding| format!("{finding}\n")).collect())
    };
    let absent = found("table").await?;
    ensure!(absent.contains(ERROR) && absent.contains("postrider domain apply"), "{absent}");
    world.apply(&["alice", "bob"]).await?;
    let table = found("table").await?;
    ensure!(table.contains(OK) && table.contains("1 domains and 2 mailboxes"), "{table}");
    // What is in it is looked at.
    let postmaster = found("postmaster").await?;
    ensure!(postmaster.contains("postmaster@local.test leads to alice@local.test"), "{postmaster}");
    // A login that cannot be read is a finding, and the rest is tried all the same.
    let yaml = world.ingress.dir().join("postrider.yaml");
    let config = fs::read_to_string(&yaml)?;
    fs::write(&yaml, config.replace("jetstream:\n", "jetstream:\n  nkeyFile: gone.nk\n"))?;
    let unread = found("table").await? + &found("nats").await?;
    ensure!(unread.matches(ERROR).count() == 2 && unread.contains("nkeyFile"), "{unread}");
    ensure!(found("disk").await?.contains(OK), "nothing else was tried");
    // An ingress for submission that could check no password.
    let lines: Vec<&str> = config.lines().filter(|line| !line.starts_with("secrets:")).collect();
    fs::write(&yaml, lines.join("\n"))?;
    let keyless = found("table").await?;
    ensure!(keyless.contains(ERROR) && keyless.contains("secrets.privateKeys"), "{keyless}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_is_known_and_a_wiped_bucket_removes_nobody() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), 1).await?;
    world.ingress.start().await?;
    ensure!(!world.is_ready().await?, "ready without a table");
    ensure!(world.rcpt(ALICE).await? == 451, "nothing was applied yet");

    let applied = world.apply(&["alice"]).await?;
    ensure!(applied["generation"] == 1 && applied["written"] == 3, "{applied}");
    world.until_rcpt(ALICE, 250).await?;
    wait::until("readiness", LIMIT, async || world.is_ready().await.ok()?.then_some(())).await?;
    ensure!(world.rcpt(NOBODY).await? == 550, "the leader knows nobody");
    ensure!(world.rcpt("a@foreign.test").await? == 550, "no relay");

    // A change writes what has changed, and is known without a restart.
    let applied = world.apply(&["alice", "bob"]).await?;
    ensure!(applied["generation"] == 2 && applied["written"] == 1, "{applied}");
    ensure!(world.rcpt(BOB).await? != 550, "applied already");
    world.until_rcpt(BOB, 250).await?;
    let applied = world.apply(&["alice", "bob"]).await?;
    ensure!(applied["generation"] == 2 && applied["written"] == 0, "{applied}");

    world.wipe().await?;
    for (recipient, code) in [(ALICE, 250), (BOB, 250), (NOBODY, 451), ("a@foreign.test", 451)] {
        let found = world.rcpt(recipient).await?;
        ensure!(found == code, "{found} for {recipient} after the bucket was wiped");
    }
    world.restart_ingress().await?;
    ensure!(!world.is_ready().await?, "ready without a table");
    for recipient in [ALICE, NOBODY] {
        ensure!(world.rcpt(recipient).await? == 451, "{recipient} with an empty bucket");
    }

    let applied = world.apply(&["alice", "bob"]).await?;
    ensure!(applied["generation"] == 1 && applied["written"] == 4, "{applied}");
    world.until_rcpt(ALICE, 250).await?;
    ensure!(world.rcpt(NOBODY).await? == 550, "the leader knows nobody");
    let applied = world.apply(&["alice"]).await?;
    ensure!(applied["dropped"] == 1, "{applied}");
    wait::until("bob's end", LIMIT, async || (world.rcpt(BOB).await.ok()? == 550).then_some(()))
        .await?;
    Ok(())
}

/// A watch does not hear of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_was_made_again_is_found() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), 1).await?;
    world.apply(&["alice", "carol"]).await?;
    world.ingress.start().await?;
    world.until_rcpt(ALICE, 250).await?;
    world.wipe().await?;
    world.apply(&["alice", "bob"]).await?;
    world.until_rcpt(BOB, 250).await?;
    let (context, _) = world.bucket().await?;
    context.delete_key_value("domains").await?;
    ensure!(world.rcpt(NOBODY).await? == 451, "there is no bucket");
    world.apply(&["alice", "dave"]).await?;
    world.until_rcpt("dave@local.test", 250).await?;
    ensure!(world.rcpt(ALICE).await? == 250, "alice was always there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_was_written_in_part_changes_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), 1).await?;
    world.apply(&["alice", "bob"]).await?;
    world.ingress.start().await?;
    world.until_rcpt(ALICE, 250).await?;
    // As if a writer had died between two rows of generation 2.
    let (_, bucket) = world.bucket().await?;
    let key = "e.local_test.alice";
    let alice = bucket.get(key).await?.context("alice is not there")?;
    let alice: Value = serde_json::from_slice(&alice)?;
    let dropped = json!({"since": 2, "now": null, "before": alice["now"]});
    bucket.put(key, dropped.to_string().into()).await?;
    let carol = json!({"row": {"kind": "mailbox", "address": "carol@local.test"}});
    let new = json!({"since": 2, "now": carol});
    bucket.put("e.local_test.carol", new.to_string().into()).await?;
    for _ in 0..2 {
        world.until_rcpt(ALICE, 250).await?;
        ensure!(world.rcpt("carol@local.test").await? == 550, "not in force");
        world.restart_ingress().await?;
    }
    let applied = world.apply(&["alice", "bob", "dave"]).await?;
    ensure!(applied["generation"] == 2, "{applied}");
    world.until_rcpt("dave@local.test", 250).await?;
    ensure!(world.rcpt(ALICE).await? == 250, "alice was always there");
    ensure!(world.rcpt("carol@local.test").await? == 550, "never in force");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_shrinks_much_is_meant() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = World::start(dir.path(), 1).await?;
    let domains = world.operator.dir().join("domains");
    for n in 1..=3 {
        let yaml = domain_yaml(&format!("d{n}.test"), &["alice"])?;
        let yaml = yaml.replace("name: d}", &format!("name: d{n}}}"));
        std::fs::write(
            domains.join(format!("d{n}.yaml")),
            yaml.replace("m-alice", &format!("m-{n}")),
        )?;
    }
    world.operator.cli(&["domain", "apply"]).await?;
    for n in 2..=3 {
        std::fs::remove_file(domains.join(format!("d{n}.yaml")))?;
    }
    let refused = world.operator.cli(&["domain", "apply"]).await;
    let error = refused.err().context("not refused")?.to_string();
    ensure!(error.contains("1 domains would remain of 3: add --confirm-shrink"), "{error}");
    let said = world.operator.cli(&["domain", "apply", "--confirm-shrink"]).await?;
    ensure!(said.starts_with("generation 2: 1 domains, 1 mailboxes; 0 entries"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_550_while_servers_die() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), 3).await?;
    world.apply(&["alice"]).await?;
    world.ingress.start().await?;
    world.until_rcpt(ALICE, 250).await?;
    let address = world.ingress.address("relay");
    let (stop, mut clients) = (tokio_util::sync::CancellationToken::new(), JoinSet::new());
    for recipient in [ALICE, "alice+tag@local.test", BOB] {
        let stop = stop.clone();
        clients.spawn(async move {
            let mut replies = Vec::new();
            while !stop.is_cancelled() {
                replies.push(Client::rcpt(address, recipient).await?);
            }
            Ok::<_, anyhow::Error>((recipient, replies))
        });
    }
    for victim in 0..3 {
        world.servers.kill(victim)?;
        world.until_rcpt(ALICE, 250).await?;
        world.servers.restart(victim)?;
        world.servers.until_current(Duration::from_secs(60)).await?;
    }
    // Without a majority nothing can be proven.
    world.servers.kill(0)?;
    world.servers.kill(1)?;
    world.servers.kill(2)?;
    wait::until("no proof", LIMIT, async || (world.rcpt(NOBODY).await.ok()? == 451).then_some(()))
        .await?;
    ensure!(world.rcpt(ALICE).await? == 250, "alice was always there");
    for victim in 0..3 {
        world.servers.restart(victim)?;
    }
    world.servers.until_current(Duration::from_secs(60)).await?;
    world.apply(&["alice", "bob"]).await?;
    world.until_rcpt(BOB, 250).await?;
    wait::until("proof", LIMIT, async || (world.rcpt(NOBODY).await.ok()? == 550).then_some(()))
        .await?;
    stop.cancel();
    while let Some(client) = clients.join_next().await {
        let (recipient, replies) = client??;
        let count = |code| replies.iter().filter(|reply| **reply == code).count();
        println!("{recipient}: 250 {}, 451 {}, 550 {}", count(250), count(451), count(550));
        // Bob did not exist at first.
        ensure!(recipient == BOB || count(550) == 0, "550 for {recipient}");
        ensure!(count(250) + count(451) + count(550) == replies.len(), "{replies:?}");
    }
    Ok(())
}

/// A server that is stopped keeps its connections open and says nothing: whoever has the table from
/// it goes to another one, and learns what is published meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_is_left() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path(), 3).await?;
    world.apply(&["alice"]).await?;
    world.ingress.start().await?;
    world.until_rcpt(ALICE, 250).await?;
    let mut mailboxes = vec!["alice".to_owned()];
    // One of them is the one that the ingress is connected to.
    for server in 0..world.servers.len() {
        world.servers.stop_process(server)?;
        mailboxes.push(format!("late{server}"));
        let names: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
        wait::until("what is published", STOPPED_MAX, async || world.apply(&names).await.ok())
            .await?;
        let late = format!("late{server}@local.test");
        wait::until("a new mailbox to be known", STOPPED_MAX, async || {
            (world.rcpt(&late).await.ok()? == 250).then_some(())
        })
        .await?;
        world.servers.resume(server)?;
        world.servers.until_current(Duration::from_secs(60)).await?;
    }
    Ok(())
}

/// Whoever claims the bucket last wins, always; what is in force is always one whole table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_do_not_mix() -> Result<()> {
    let servers = Cluster::start(3).await?;
    let config = servers.buckets();
    let dir = tempfile::tempdir()?;
    let keys = Keys::make(&dir.path().join("keys")).await?;
    let (mut won, mut lost) = (0, 0);
    for round in 0..8 {
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let names: Vec<String> =
                (0..20).map(|n| format!("{}-{n}", (writer + round) % 5)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let yaml = domain_yaml("local.test", &names)?;
            let table = Table::from_yaml([("f", yaml.as_str())], &Settings::default());
            let table = table.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
            let config = config.clone();
            let sealer = keys.sealer()?;
            writers.spawn(async move {
                let (shrinking, progress) = (Shrinking::Refused, Progress::default());
                domains_kv::publish(&config, &sealer, &table, shrinking, &progress).await
            });
        }
        let before = won;
        while let Some(writer) = writers.join_next().await {
            match writer? {
                Ok(_) => won += 1,
                Err(error @ PublishError::Overtaken) => {
                    let text = error.to_string();
                    ensure!(text.contains("has begun after this one and goes on"), "{text}");
                    lost += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(won > before, "nobody won round {round}");
        let (marker, table) = domains_kv::read(&config).await?;
        ensure!(table.mailboxes() == 20 && marker.mailboxes == 20, "{marker:?}");
    }
    println!("{won} publications, {lost} ended by a later one");
    ensure!(lost > 0, "nobody was in another's way");
    Ok(())
}
