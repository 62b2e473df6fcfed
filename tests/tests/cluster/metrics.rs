//! What the roles tell of the queue is what is in it, each job once, and all of it is documented.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::StreamExt;
use tests::client::Client;
use tests::exposition::Exposition;
use tests::mesh::{Mesh, Size};
use tests::process::{PASSWORD, Postrider};
use tests::scenario;
use tests::sink::Sink;
use tests::wait;
use tokio::net::TcpListener;

const LIMIT: Duration = Duration::from_secs(90);
const DEFERRED: usize = 12;
const HELD: usize = 5;
const BACKLOG: usize = 150;

/// Sums over all processes.
#[derive(Debug, Clone, PartialEq)]
struct Sums {
    ready: f64,
    parked: f64,
    active: f64,
    deferred: f64,
    held: f64,
    work: f64,
}

async fn expositions(mesh: &Mesh) -> Result<Vec<Exposition>> {
    let running = mesh.processes().into_iter().filter(|process| process.is_running());
    futures::future::try_join_all(running.map(Exposition::of)).await
}

fn sums(all: &[Exposition]) -> Sums {
    let sum = |name: &str| -> f64 { all.iter().map(|one| one.sum(name, "")).sum() };
    Sums {
        ready: sum("postrider_queue_jobs_ready"),
        parked: sum("postrider_queue_jobs_parked"),
        active: sum("postrider_queue_jobs_active"),
        deferred: sum("postrider_queue_jobs_deferred"),
        held: sum("postrider_queue_jobs_held"),
        work: sum("postrider_queue_work_jobs"),
    }
}

/// Waits until what all tell together is as wanted.
async fn until(what: &str, mesh: &Mesh, wanted: impl Fn(&Sums) -> bool) -> Result<Sums> {
    let mut last = None;
    let found = wait::until(what, LIMIT, async || {
        let sums = sums(&expositions(mesh).await.ok()?);
        last = Some(sums.clone());
        wanted(&sums).then_some(sums)
    });
    found.await.map_err(|error| error.context(format!("last told: {last:?}")))
}

async fn send(client: &mut Client, recipients: impl Iterator<Item = String>) -> Result<()> {
    for recipient in recipients {
        let content = b"From: <alice@local.test>\r\nSubject: counted\r\n\r\nbody\r\n";
        let reply = client.transaction("alice@local.test", &[&recipient], content).await?;
        ensure!(reply.code == 250, "{}", reply.text);
    }
    Ok(())
}

/// Each partition is told by one process, and all are told.
fn each_partition_once(all: &[Exposition]) -> Result<()> {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for one in all {
        for sample in one.samples.keys() {
            if let Some(labels) = sample.strip_prefix("postrider_queue_work_jobs") {
                *told.entry(labels.to_owned()).or_default() += 1;
            }
        }
    }
    let partitions = ["m0", "s0", "s1", "s2", "s3", "split"];
    let wanted = partitions.map(|partition| (format!("{{partition=\"{partition}\"}}"), 1));
    ensure!(told == BTreeMap::from(wanted), "{told:?}");
    let limits: usize =
        all.iter().map(|one| one.values("postrider_queue_store_limit_bytes", "").len()).sum();
    ensure!(limits == 1, "the limit of the store is told by {limits} processes");
    Ok(())
}

async fn mesh(dir: &std::path::Path, sink: &Sink, hanging: &TcpListener) -> Result<Mesh> {
    let port = hanging.local_addr()?.port();
    let size = Size {
        servers: 1,
        ingresses: 1,
        workers: 2,
        jetstream: vec!["window: 100".to_owned()],
        routes: vec![format!("{{domain: hangs.test, host: \"127.0.0.1\", port: {port}}}")],
        retry_seconds: 3600,
        ..Size::default()
    };
    Mesh::start(dir, size, sink).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_are_those_of_the_queue_and_each_job_counts_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(Arc::new(|_| Some("451 4.3.0 later"))).await?;
    // Accepts connections, and never says a word.
    let hanging = TcpListener::bind("127.0.0.1:0").await?;
    let mut mesh = mesh(dir.path(), &sink, &hanging).await?;
    let ingress = mesh.ingresses[0].address("submission");
    let mut client = Client::submission(ingress, "alice@local.test", PASSWORD).await?;
    defer_and_hold(&mesh, &mut client).await?;
    what_is_deferred_is_no_work(&mesh).await?;
    one_in_flight(&mesh, &mut client).await?;
    a_backlog(&mut mesh, &mut client).await?;
    // Nobody listens any more: the next hop is down, and what waits for it is no work.
    drop(hanging);
    until("no work", &mesh, |sums| sums.work == 0.0 && sums.held == HELD as f64).await?;
    mesh.stop(Duration::from_secs(60)).await
}

/// What is neither ready nor in flight from the first step to the last.
fn is_at_rest(sums: &Sums) -> bool {
    (sums.deferred, sums.held) == ((DEFERRED - HELD) as f64, HELD as f64)
}

async fn defer_and_hold(mesh: &Mesh, client: &mut Client) -> Result<()> {
    send(client, (0..DEFERRED).map(|n| format!("u@d{n}.test"))).await?;
    let is_deferred = |sums: &Sums| sums.deferred == DEFERRED as f64 && sums.work == 0.0;
    until("deferred mail", mesh, is_deferred).await?;
    for n in 0..HELD {
        let domain = format!("d{n}.test");
        mesh.ingresses[0].cli(&["queue", "hold", "--recipient-domain", &domain]).await?;
    }
    let is_idle = |sums: &Sums| is_at_rest(sums) && sums.work == 0.0 && sums.ready == 0.0;
    until("held mail, and no work", mesh, is_idle).await.map(drop)
}

async fn what_is_deferred_is_no_work(mesh: &Mesh) -> Result<()> {
    let all = wait::until("all partitions", LIMIT, async || {
        let all = expositions(mesh).await.ok()?;
        each_partition_once(&all).ok().map(|()| all)
    })
    .await?;
    for one in &all {
        let ages = one.values("postrider_queue_oldest_work_seconds", "");
        ensure!(ages.iter().all(|age| *age == 0.0), "what is deferred has no age: {ages:?}");
    }
    let (domain, tenant) = ("postrider_queue_domain_jobs", "postrider_queue_tenant_jobs");
    for (name, label, wanted) in [
        (domain, "domain=\"d0.test\",state=\"held\"", 1),
        (domain, "domain=\"d9.test\",state=\"deferred\"", 1),
        (tenant, "state=\"held\"", HELD),
        (tenant, "state=\"deferred\"", DEFERRED - HELD),
        (tenant, "state=\"ready\"", 0),
    ] {
        let told: f64 = all.iter().map(|one| one.sum(name, label)).sum();
        ensure!(told == wanted as f64, "{name} {label}: {told}, not {wanted}");
    }
    Ok(())
}

async fn one_in_flight(mesh: &Mesh, client: &mut Client) -> Result<()> {
    send(client, ["one@hangs.test".to_owned()].into_iter()).await?;
    let is_in_flight = |sums: &Sums| sums.active == 1.0 && sums.work == 1.0 && is_at_rest(sums);
    until("one in flight", mesh, is_in_flight).await?;
    let oldest = wait::until("its age", LIMIT, async || {
        let all = expositions(mesh).await.ok()?;
        let name = "postrider_queue_domain_oldest_work_seconds";
        let ages: f64 = all.iter().map(|one| one.sum(name, "hangs.test")).sum();
        (ages > 1.0).then_some(ages)
    })
    .await?;
    ensure!(oldest < 600.0, "{oldest} s");
    Ok(())
}

async fn a_backlog(mesh: &mut Mesh, client: &mut Client) -> Result<()> {
    send(client, (0..BACKLOG).map(|n| format!("u{n}@hangs.test"))).await?;
    let is_whole = |sums: &Sums| sums.work == (BACKLOG + 1) as f64 && is_at_rest(sums);
    let sums = until("a backlog", mesh, |sums| is_whole(sums) && sums.parked > 0.0).await?;
    ensure!(sums.ready + sums.parked + sums.active == sums.work, "{sums:?}");
    // What a dead worker had is told by the other.
    mesh.workers[0].kill().await?;
    until("all of it from one worker", mesh, is_whole).await?;
    mesh.workers[0].start().await?;
    let once = wait::until("all partitions again", LIMIT, async || {
        each_partition_once(&expositions(mesh).await.ok()?).ok()
    });
    once.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_to_do_asks_the_servers_for_little() -> Result<()> {
    const WINDOW: Duration = Duration::from_secs(10);
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let size = Size { servers: 1, ingresses: 1, workers: 2, ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    wait::until("all partitions", LIMIT, async || {
        each_partition_once(&expositions(&mesh).await.ok()?).ok()
    })
    .await?;
    let client = async_nats::connect(mesh.servers.urls()).await?;
    let asked = client.subscribe("$JS.API.*.INFO.>").await?;
    client.flush().await?;
    let subjects = asked.take_until(tokio::time::sleep(WINDOW)).map(|message| message.subject);
    let mut questions: BTreeMap<String, usize> = BTreeMap::new();
    for subject in subjects.collect::<Vec<_>>().await {
        *questions.entry(subject.to_string()).or_default() += 1;
    }
    let asked: usize = questions.values().sum();
    println!("asked {asked} times in {WINDOW:?}: {questions:?}");
    // Four processes with a look at two body streams each; five partitions with two questions, and
    // once all streams: 35. A look that is late or early adds some.
    ensure!(asked > 0, "the requests are not seen");
    ensure!(asked < 70, "{asked} questions in {WINDOW:?} about nothing");
    mesh.stop(Duration::from_secs(60)).await
}

/// Counted only when something is wrong, a Dovecot asks or a gateway domain has mail, and not told
/// before.
const RARE: [&str; 6] = [
    "postrider_dovecot_logins_total",
    "postrider_ingress_call_aheads_total",
    "postrider_ingress_client_faults_total",
    "postrider_ingress_connections_refused_total",
    "postrider_ingress_tolerated_total",
    "postrider_mda_disk_failures_total",
];

/// Something for each counter that is told once it has counted.
async fn use_all_roles(ingress: &Postrider, sink: &Sink) -> Result<()> {
    let address = ingress.address("submission");
    let mut client = Client::submission(address, "alice@local.test", PASSWORD).await?;
    send(&mut client, ["bob@local.test", "u@there.test"].map(String::from).into_iter()).await?;
    let reply = client.transaction("alice@local.test", &["nobody@local.test"], b"").await?;
    ensure!(reply.code == 550, "{}", reply.text);
    client.command("QUIT", 221).await?;
    wait::until("delivery", LIMIT, async || (sink.count() > 0).then_some(())).await
}

/// The first cells of the table: name and type.
fn documented() -> BTreeMap<String, String> {
    let rows = include_str!("../../../docs/metrics.md").lines();
    let rows = rows.filter_map(|row| {
        let mut cells = row.strip_prefix("| `postrider_")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`');
        Some((format!("postrider_{name}"), cells.next()?.to_owned()))
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_documented_and_what_is_documented_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let size = Size { servers: 1, ingresses: 1, workers: 1, ..Size::default() };
    let mut mesh = Mesh::start(&dir.path().join("cluster"), size, &sink).await?;
    let one = dir.path().join("one");
    std::fs::create_dir_all(&one)?;
    let mut one = Postrider::new(&one, &scenario::config(&sink, &one.join("data")))?;
    one.write_domain("local.test", &["alice"])?;
    one.start().await?;
    use_all_roles(&mesh.ingresses[0], &sink).await?;
    let told = wait::until("all partitions", LIMIT, async || {
        let mut all = expositions(&mesh).await.ok()?;
        each_partition_once(&all).ok()?;
        let is_sized = |one: &Exposition| !one.values("postrider_queue_store_bytes", "").is_empty();
        all.iter().any(is_sized).then_some(())?;
        all.push(Exposition::of(&one).await.ok()?);
        let told: BTreeMap<_, _> = all.into_iter().flat_map(|one| one.metrics).collect();
        // The last to be counted.
        let counted = ["postrider_ingress_sessions_ended_total", "postrider_mda_recipients_total"];
        counted.iter().all(|name| told.contains_key(*name)).then_some(told)
    })
    .await?;
    let documented = documented();
    ensure!(told.len() > 50, "{told:?}");
    let odd = |these: &BTreeMap<String, String>, those: &BTreeMap<String, String>| {
        let odd = these.iter().filter(|(name, kind)| those.get(*name) != Some(kind));
        odd.map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>()
    };
    let (unwritten, mut untold) = (odd(&told, &documented), odd(&documented, &told));
    untold.retain(|metric| !RARE.iter().any(|rare| *metric == format!("{rare} counter")));
    ensure!(unwritten.is_empty(), "not in docs/metrics.md: {unwritten:?}");
    ensure!(untold.is_empty(), "in docs/metrics.md alone: {untold:?}");
    one.stop(Duration::from_secs(60)).await?;
    mesh.stop(Duration::from_secs(60)).await
}
