//! A flood to dead and slow destinations holds back nobody else, although flooder and victim are
//! one tenant, and all of it is in one partition and more than its owner takes in hand.
//!
//! With `--long` the flood is of 100,000, for three seeds each on one server and on three;
//! `docs/reports/fairness.md` has the figures. What a flood costs is CPU too, of which this machine
//! has two cores: so the victim is also measured while the same flood comes in at servers and roles
//! that it has nothing to do with, but for the cores.

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
use tests::{ports, scenario, wait};

/// Between two messages of the victim, on average.
const GAP: Duration = Duration::from_millis(50);
/// While large messages come in, which takes a second or two.
const GAP_LARGE: Duration = Duration::from_millis(5);
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
    base: Base,
    limit: Duration,
}

/// Below this a p99 is the scheduler's: some thirty threads share two cores.
const NOISE: Duration = Duration::from_millis(2);

/// What the victim's p99 is held against, if it is more than that of the victim alone.
#[derive(Clone, Copy)]
enum Base {
    /// While a flood comes in: that of the victim while the same comes in elsewhere on the
    /// machine. While it stands: [`NOISE`].
    Elsewhere,
    /// Whatever else the machine does meanwhile: it runs other tests before and after.
    AtLeast(Duration),
}

fn scales() -> Vec<Scale> {
    if scenario::is_long() {
        let long = |servers| Scale {
            flood: 100_000,
            victims: 600,
            seeds: 3,
            servers,
            base: Base::Elsewhere,
            limit: Duration::from_secs(1800),
        };
        return vec![long(1), long(3)];
    }
    let base = Base::AtLeast(Duration::from_millis(500));
    let limit = Duration::from_secs(120);
    vec![Scale { flood: 5_000, victims: 60, seeds: 1, servers: 1, base, limit }]
}

/// By what so many recipients are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    /// A message each, at the full rate.
    Messages,
    /// Few messages, which are large.
    Large,
}

impl Flood {
    /// Between two messages of the victim, on average.
    fn gap(self) -> Duration {
        match self {
            Self::Messages => GAP,
            Self::Large => GAP_LARGE,
        }
    }
}

/// Exponential gaps: the victim does not send in step with anything.
fn gaps(seed: u64, mean: Duration) -> impl Iterator<Item = Duration> + Send {
    let mut rng = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        let uniform: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
        mean.mul_f64(-uniform.ln())
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
        let (mesh, tarpit) = Self::mesh(dir, scale, &sink).await?;
        let address = mesh.ingresses[0].address("submission");
        Ok(Self { scale, seed, mesh, sink, address, _tarpit: tarpit })
    }

    async fn mesh(dir: &Path, scale: Scale, sink: &Sink) -> Result<(Mesh, TcpListener)> {
        let dead = ports::free_address()?.port();
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
        Ok((Mesh::start(dir, size, sink).await?, tarpit))
    }

    /// What the victim sees while nothing changes.
    async fn victim(&self, name: &str) -> Result<Taken> {
        let gaps = gaps(self.seed, GAP).take(self.scale.victims);
        Probe::start(self.address, name, gaps).await?.ended(&self.sink).await
    }

    /// What the victim sees until all of a flood has been accepted at `to`.
    async fn victim_during(&self, name: &str, flood: Flood, to: SocketAddr) -> Result<Taken> {
        let probe = Probe::start(self.address, name, gaps(self.seed, flood.gap())).await?;
        let begun = Instant::now();
        match flood {
            Flood::Messages => self.flood_of_messages(to).await?,
            Flood::Large => self.flood_of_recipients(to).await?,
        }
        println!("{name}: accepted within {:?}", begun.elapsed());
        probe.stop(&self.sink).await
    }

    /// What the victim sees while a flood takes of the machine what it takes, and nothing else.
    async fn victim_beside(&self, name: &str, flood: Flood) -> Result<Taken> {
        let dir = tempfile::tempdir()?;
        let (mut mesh, _tarpit) = Self::mesh(dir.path(), self.scale, &self.sink).await?;
        let to = mesh.ingresses[0].address("submission");
        let taken = self.victim_during(name, flood, to).await?;
        for process in mesh.processes_mut() {
            process.kill().await?;
        }
        Ok(taken)
    }

    async fn flood_of_messages(&self, to: SocketAddr) -> Result<()> {
        let seed = self.seed;
        let recipients: Recipients = Arc::new(move |n| vec![recipient(seed, n)]);
        flood::send(to, 16, 0..self.scale.flood, &recipients).await
    }

    async fn flood_of_recipients(&self, to: SocketAddr) -> Result<()> {
        let mut client = Client::submission(to, SENDER, PASSWORD).await?;
        let body = "a line of a large message\r\n".repeat(LARGE / 27);
        let content = format!("From: <{SENDER}>\r\nSubject: large\r\n\r\n{body}");
        for first in (0..self.scale.flood).step_by(MANY) {
            let many = first..self.scale.flood.min(first + MANY);
            let recipients: Vec<_> = many.map(|n| recipient(self.seed, n)).collect();
            flood::message(&mut client, &recipients, content.as_bytes()).await?;
        }
        Ok(())
    }

    /// What the victim's p99 under a flood is held against, if it is more than that alone.
    async fn base(&self, name: &str, flood: Flood) -> Result<Duration> {
        match self.scale.base {
            Base::AtLeast(base) => Ok(base),
            Base::Elsewhere => Ok(p99(&self.victim_beside(name, flood).await?)),
        }
    }

    /// The same while a flood stands.
    fn base_standing(&self) -> Duration {
        match self.scale.base {
            Base::AtLeast(base) => base,
            Base::Elsewhere => NOISE,
        }
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

    /// Lets a flood come in, and stand, and checks what the victim sees of it.
    async fn under(&self, name: &str, alone: &Taken, flood: Flood) -> Result<()> {
        let base = self.base(&format!("{name}-beside"), flood).await?;
        let during = self.victim_during(name, flood, self.address).await?;
        let checked = self.check(&format!("{name} coming in"), alone, base, &during);
        if flood == Flood::Messages {
            self.until_known(self.scale.flood).await?;
        }
        let standing = self.victim(&format!("{name}-standing")).await?;
        let base = self.base_standing();
        let checked = checked.and(self.check(&format!("{name} standing"), alone, base, &standing));
        self.cancel_all().await?;
        checked
    }

    /// Prints how long the victim's messages took, and checks it against those alone and `base`.
    fn check(&self, name: &str, alone: &Taken, base: Duration, now: &Taken) -> Result<()> {
        let base = p99(alone).max(base);
        println!(
            "{name}, seed {}: {} messages of the victim, to 250 p50 {:?} p99 {:?}, from there to \
             the sink p50 {:?} p99 {:?} at most {:?}: {:.1} x alone, {:.2} x {:?}",
            self.seed,
            now.to_deliver.len(),
            percentile(&now.to_accept, 50),
            percentile(&now.to_accept, 99),
            percentile(&now.to_deliver, 50),
            p99(now),
            percentile(&now.to_deliver, 100),
            p99(now).div_duration_f64(p99(alone)),
            p99(now).div_duration_f64(base),
            base,
        );
        ensure!(p99(now) <= 2 * base, "{name}: {:?} is more than twice {base:?}", p99(now));
        Ok(())
    }
}

fn p99(taken: &Taken) -> Duration {
    percentile(&taken.to_deliver, 99)
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
    let warm = gaps(seed, GAP).take(20);
    Probe::start(scene.address, "warm", warm).await?.ended(&scene.sink).await?;
    let alone = scene.victim("alone").await?;
    println!("alone: from 250 to the sink p99 {:?}", p99(&alone));
    let messages = scene.under("messages", &alone, Flood::Messages).await;
    messages.and(scene.under("large", &alone, Flood::Large).await)?;
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
