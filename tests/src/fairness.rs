//! Somebody sends to a destination that answers while another floods dead and slow ones: how long
//! his messages take, alone, beside the flood and under it.
//!
//! What a flood costs is CPU too, of which the machine has two cores: so the victim is also
//! measured while the same flood comes in at processes that it has nothing to do with, but for the
//! cores.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::client::Client;
use crate::flood::{self, Recipients};
use crate::load::SENDER;
use crate::mesh::{Mesh, Size, with_lines};
use crate::probe::{Probe, Taken, percentile};
use crate::process::{PASSWORD, Postrider, domain_yaml};
use crate::sink::Sink;
use crate::{ports, scenario, wait};

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
pub struct Scale {
    pub flood: usize,
    pub victims: usize,
    pub base: Base,
    pub limit: Duration,
}

impl Scale {
    /// That of `--long`.
    pub const LONG: Self = Self {
        flood: 100_000,
        victims: 600,
        base: Base::Elsewhere,
        limit: Duration::from_secs(1800),
    };

    /// That of every submission.
    pub const SHORT: Self = Self {
        flood: 5_000,
        victims: 60,
        base: Base::AtLeast(Duration::from_millis(500)),
        limit: Duration::from_secs(120),
    };
}

/// Who takes the mail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum House {
    /// One process; flooder and victim are two tenants.
    OneProcess,
    /// Roles on so many NATS servers; flooder and victim are one tenant, and all is in one
    /// partition.
    Roles { servers: usize },
}

/// Below this a p99 is the scheduler's: some thirty threads share two cores.
const NOISE: Duration = Duration::from_millis(2);

/// What the victim's p99 is held against, if it is more than that of the victim alone.
#[derive(Clone, Copy)]
pub enum Base {
    /// While a flood comes in: that of the victim while the same comes in elsewhere on the
    /// machine. While it stands: [`NOISE`].
    Elsewhere,
    /// Whatever else the machine does meanwhile: it runs other tests before and after.
    AtLeast(Duration),
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

/// The processes of a [`House`].
enum Home {
    OneProcess(Box<Postrider>),
    Roles(Box<Mesh>),
}

const FLOODER: &str = "flooder@flood.test";

impl House {
    /// Everything remote goes to `sink`, but for domains that are slow or dead.
    async fn start(self, dir: &Path, sink: &Sink, slow: u16) -> Result<Home> {
        let dead = ports::free_address()?.port();
        let routes = [("dead", dead), ("slow", slow)];
        let routes = routes.map(|(domain, port)| {
            format!("{{domain: .{domain}.test, host: \"127.0.0.1\", port: {port}}}")
        });
        let limits = "limits: {recipientsMax: 1000}";
        match self {
            Self::OneProcess => Home::one_process(dir, sink, &routes, limits).await,
            Self::Roles { servers } => {
                let size = Size {
                    servers,
                    ingresses: 1,
                    workers: 1,
                    jetstream: vec!["partitions: 1".into()],
                    ingress: vec![limits.into()],
                    routes: routes.into(),
                    ..Size::default()
                };
                Ok(Home::Roles(Box::new(Mesh::start(dir, size, sink).await?)))
            }
        }
    }

    fn flooder(self) -> &'static str {
        match self {
            Self::OneProcess => FLOODER,
            Self::Roles { .. } => SENDER,
        }
    }
}

impl Home {
    async fn one_process(dir: &Path, sink: &Sink, routes: &[String], limits: &str) -> Result<Self> {
        let config = scenario::config(sink, &dir.join("data"));
        let config = with_lines(config, "  routes:\n", "  - ", routes);
        let config = with_lines(config, "ingress:\n", "  ", &[limits.to_owned()]);
        let mut postrider = Postrider::new(&dir.join("etc"), &config)?;
        postrider.write_domain("local.test", &["alice"])?;
        let flooder = domain_yaml("flood.test", &["flooder"])?;
        let flooder = flooder.replace("metadata: {", "metadata: {namespace: flooder, ");
        fs::write(postrider.dir().join("domains/flood.test.yaml"), flooder)?;
        postrider.start().await?;
        Ok(Self::OneProcess(Box::new(postrider)))
    }

    /// Where mail is submitted.
    fn address(&self) -> SocketAddr {
        let process = match self {
            Self::OneProcess(postrider) => postrider,
            Self::Roles(mesh) => &mesh.ingresses[0],
        };
        process.address("submission")
    }

    /// Who is asked for the queue.
    fn admin(&self) -> &Postrider {
        match self {
            Self::OneProcess(postrider) => postrider,
            Self::Roles(mesh) => &mesh.workers[0],
        }
    }

    async fn kill(&mut self) -> Result<()> {
        match self {
            Self::OneProcess(postrider) => postrider.kill().await?,
            Self::Roles(mesh) => {
                for process in mesh.processes_mut() {
                    process.kill().await?;
                }
            }
        }
        Ok(())
    }
}

struct Scene {
    house: House,
    scale: Scale,
    seed: u64,
    home: Home,
    sink: Sink,
    address: SocketAddr,
    /// Connections succeed, and nothing is ever said.
    tarpit: TcpListener,
}

impl Scene {
    async fn start(dir: &Path, house: House, scale: Scale, seed: u64) -> Result<Self> {
        let (sink, tarpit) = (Sink::start().await?, TcpListener::bind("127.0.0.1:0")?);
        let home = house.start(dir, &sink, tarpit.local_addr()?.port()).await?;
        let address = home.address();
        Ok(Self { house, scale, seed, home, sink, address, tarpit })
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
        let slow = self.tarpit.local_addr()?.port();
        let mut elsewhere = self.house.start(dir.path(), &self.sink, slow).await?;
        let taken = self.victim_during(name, flood, elsewhere.address()).await?;
        elsewhere.kill().await?;
        Ok(taken)
    }

    async fn flood_of_messages(&self, to: SocketAddr) -> Result<()> {
        let seed = self.seed;
        let recipients: Recipients = Arc::new(move |n| vec![recipient(seed, n)]);
        flood::send_as(self.house.flooder(), to, 16, 0..self.scale.flood, &recipients).await
    }

    async fn flood_of_recipients(&self, to: SocketAddr) -> Result<()> {
        let from = self.house.flooder();
        let mut client = Client::submission(to, from, PASSWORD).await?;
        let body = "a line of a large message\r\n".repeat(LARGE / 27);
        let content = format!("From: <{from}>\r\nSubject: large\r\n\r\n{body}");
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
        let text = self.home.admin().cli(&["queue", "stats", "--output", "json"]).await?;
        serde_json::from_str(&text).context("stats")
    }

    /// Waits until so many messages are known.
    async fn until_known(&self, messages: usize) -> Result<()> {
        let (every, what) = (Duration::from_millis(200), format!("{messages} messages"));
        wait::until_every(every, &what, self.scale.limit, async || {
            let known = self.stats().await.ok()?["messages"].as_u64()?;
            (usize::try_from(known) == Ok(messages)).then_some(())
        })
        .await
    }

    async fn cancel_all(&self) -> Result<()> {
        // What is in somebody's hands goes when it has settled.
        wait::until_every(Duration::from_secs(1), "an empty queue", self.scale.limit, async || {
            let cancel = ["queue", "cancel", "--silently", "--all"];
            self.home.admin().cli(&cancel).await.ok()?;
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

/// Checks what a flood does to its victim.
pub async fn check(house: House, scale: Scale, seed: u64) -> Result<()> {
    println!("POSTRIDER_SEED={seed}");
    let dir = tempfile::tempdir()?;
    let mut scene = Scene::start(dir.path(), house, scale, seed).await?;
    // The first messages open connections, and make streams' files.
    let warm = gaps(seed, GAP).take(20);
    Probe::start(scene.address, "warm", warm).await?.ended(&scene.sink).await?;
    let alone = scene.victim("alone").await?;
    println!("alone: from 250 to the sink p99 {:?}", p99(&alone));
    let messages = scene.under("messages", &alone, Flood::Messages).await;
    messages.and(scene.under("large", &alone, Flood::Large).await)?;
    scene.home.kill().await
}
