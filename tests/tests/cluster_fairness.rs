//! A flood to dead and slow destinations holds back nobody else, although flooder and victim are
//! one tenant, and all of it is in one partition and more than its owner takes in hand.
//!
//! With `--long` the flood is of 100,000, for three seeds each on one server and on three;
//! `docs/reports/fairness.md` has the figures.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tests::client::Client;
use tests::flood::{self, Recipients};
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::probe::{Probe, Taken, percentile};
use tests::process::PASSWORD;
use tests::sink::Sink;
use tests::{scenario, wait};

/// Between two messages of the victim, on average.
const GAP: Duration = Duration::from_millis(50);
/// Recipients of a large message.
const MANY: usize = 1000;
/// Octets of a large message.
const LARGE: usize = 1 << 20;
/// Domains of the flood's recipients, by half dead and slow.
const DOMAINS: usize = 10;

/// How much of all there is.
#[derive(Clone, Copy)]
struct Scale {
    flood: usize,
    victims: usize,
    seeds: u64,
    servers: usize,
    /// What is below is noise of a machine on which all processes share two cores: a p99 alone
    /// counts as at least so much.
    floor: Duration,
    limit: Duration,
}

fn scales() -> Vec<Scale> {
    let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
    if scenario::is_long() {
        let long = |servers, floor| Scale {
            flood: 100_000,
            victims: 600,
            seeds: 3,
            servers,
            floor,
            limit: seconds(1800),
        };
        // From servers that replicate, an owner fetches what comes every 40 ms.
        return vec![long(1, millis(15)), long(3, millis(50))];
    }
    // Whatever else the machine does meanwhile.
    let floor = millis(500);
    let limit = seconds(120);
    vec![Scale { flood: 5_000, victims: 60, seeds: 1, servers: 1, floor, limit }]
}

/// Exponential gaps: the victim does not send in step with anything.
fn gaps(seed: u64) -> impl Iterator<Item = Duration> + Send {
    let mut rng = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        let uniform: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
        GAP.mul_f64(-uniform.ln())
    })
}

struct Scene {
    scale: Scale,
    seed: u64,
    mesh: Mesh,
    sink: Sink,
    address: SocketAddr,
    /// Connections succeed, and nothing is ever said.
    _tarpit: TcpListener,
}

impl Scene {
    async fn start(dir: &Path, scale: Scale, seed: u64) -> Result<Self> {
        let sink = Sink::start().await?;
        let dead = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let tarpit = TcpListener::bind("127.0.0.1:0")?;
        let slow = tarpit.local_addr()?.port();
        let size = Size {
            servers: scale.servers,
            ingresses: 1,
            workers: 1,
            jetstream: vec!["partitions: 1".into()],
            ingress: vec!["limits: {recipientsMax: 1000}".into()],
            routes: vec![
                format!("{{domain: .dead.test, host: \"127.0.0.1\", port: {dead}}}"),
                format!("{{domain: .slow.test, host: \"127.0.0.1\", port: {slow}}}"),
            ],
            ..Size::default()
        };
        let mesh = Mesh::start(dir, size, &sink).await?;
        let address = mesh.ingresses[0].address("submission");
        Ok(Self { scale, seed, mesh, sink, address, _tarpit: tarpit })
    }

    /// What the victim sees while nothing changes.
    async fn victim(&self, name: &str) -> Result<Taken> {
        let gaps = gaps(self.seed).take(self.scale.victims);
        Probe::start(self.address, name, gaps).await?.ended(&self.sink).await
    }

    /// What the victim sees until `flood` has come in.
    async fn victim_during(
        &self,
        name: &str,
        flood: impl Future<Output = Result<()>>,
    ) -> Result<Taken> {
        let probe = Probe::start(self.address, name, gaps(self.seed)).await?;
        let begun = Instant::now();
        flood.await?;
        println!("{name}: accepted within {:?}", begun.elapsed());
        probe.stop(&self.sink).await
    }

    /// One recipient each, at the full rate.
    async fn flood_of_messages(&self) -> Result<()> {
        let seed = self.seed;
        let recipients: Recipients = Arc::new(move |n| vec![recipient(seed, n)]);
        flood::send(self.address, 16, 0..self.scale.flood, &recipients).await
    }

    /// As many recipients in few messages, which are large.
    async fn flood_of_recipients(&self) -> Result<()> {
        let mut client = Client::submission(self.address, SENDER, PASSWORD).await?;
        let body = "a line of a large message\r\n".repeat(LARGE / 27);
        let content = format!("From: <{SENDER}>\r\nSubject: large\r\n\r\n{body}");
        for first in (0..self.scale.flood).step_by(MANY) {
            let many = first..self.scale.flood.min(first + MANY);
            let recipients: Vec<_> = many.map(|n| recipient(self.seed, n)).collect();
            flood::message(&mut client, &recipients, content.as_bytes()).await?;
        }
        Ok(())
    }

    async fn stats(&self) -> Result<Value> {
        let text = self.mesh.workers[0].cli(&["queue", "stats", "--output", "json"]).await?;
        serde_json::from_str(&text).context("stats")
    }

    /// Waits until the worker knows so many messages.
    async fn until_known(&self, messages: usize) -> Result<()> {
        let (every, what) = (Duration::from_millis(200), format!("{messages} messages"));
        wait::until_every(every, &what, self.scale.limit, async || {
            let known = self.stats().await.ok()?["messages"].as_u64()?;
            (usize::try_from(known) == Ok(messages)).then_some(())
        })
        .await
    }

    async fn cancel_all(&self) -> Result<()> {
        // What is in a worker's hands goes when it has settled.
        wait::until_every(Duration::from_secs(1), "an empty queue", self.scale.limit, async || {
            let cancel = ["queue", "cancel", "--silently", "--all"];
            self.mesh.workers[0].cli(&cancel).await.ok()?;
            let stats = self.stats().await.ok()?;
            let left = stats["messages"].as_u64()?.checked_sub(stats["active"].as_u64()?)?;
            (left == 0).then_some(())
        })
        .await
    }

    /// Prints how long the victim's messages took, and checks it against those alone.
    fn check(&self, name: &str, alone: &Taken, now: &Taken) -> Result<()> {
        let p99 = |taken: &Taken| percentile(&taken.to_deliver, 99);
        let base = p99(alone).max(self.scale.floor);
        println!(
            "{name}, seed {}: {} messages of the victim, to 250 p50 {:?} p99 {:?}, from there to \
             the sink p50 {:?} p99 {:?} at most {:?}: {:.1} x alone, {:.2} x the greater of that \
             and {:?}",
            self.seed,
            now.to_deliver.len(),
            percentile(&now.to_accept, 50),
            percentile(&now.to_accept, 99),
            percentile(&now.to_deliver, 50),
            p99(now),
            percentile(&now.to_deliver, 100),
            p99(now).div_duration_f64(p99(alone)),
            p99(now).div_duration_f64(base),
            self.scale.floor,
        );
        ensure!(p99(now) <= 2 * base, "{name}: {:?} is more than twice {base:?}", p99(now));
        Ok(())
    }
}

/// The recipient of the flood with this number.
fn recipient(seed: u64, n: usize) -> String {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(n as u64));
    let kind = if rng.random() { "dead" } else { "slow" };
    format!("u{n}@d{}.{kind}.test", rng.random_range(0..DOMAINS))
}

async fn run(scale: Scale, seed: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut scene = Scene::start(dir.path(), scale, seed).await?;
    // The first messages open connections, and make streams' files.
    let warm = gaps(seed).take(20);
    Probe::start(scene.address, "warm", warm).await?.ended(&scene.sink).await?;
    let alone = scene.victim("alone").await?;
    scene.check("alone", &alone, &alone)?;
    let during = scene.victim_during("flood", scene.flood_of_messages()).await?;
    let checked = scene.check("flood of messages", &alone, &during);
    scene.until_known(scale.flood).await?;
    let standing = scene.victim("standing").await?;
    checked.and(scene.check("messages standing", &alone, &standing))?;
    scene.cancel_all().await?;
    let during = scene.victim_during("large", scene.flood_of_recipients()).await?;
    let checked = scene.check("flood of recipients", &alone, &during);
    let standing = scene.victim("large-standing").await?;
    checked.and(scene.check("recipients standing", &alone, &standing))?;
    scene.cancel_all().await?;
    for process in scene.mesh.processes_mut() {
        process.kill().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_holds_back_nobody_else() -> Result<()> {
    let first = scenario::seed();
    let mut failed = Ok(());
    for scale in scales() {
        for seed in (0..scale.seeds).map(|n| first.wrapping_add(n)) {
            println!("POSTRIDER_SEED={seed}, {} servers", scale.servers);
            failed = failed.and(run(scale, seed).await.with_context(|| format!("seed {seed}")));
        }
    }
    failed
}
