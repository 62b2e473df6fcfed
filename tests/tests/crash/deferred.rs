//! A queue of deferred mail in one process, in numbers: what it costs, that operators and fresh
//! mail do not wait for it, and how soon it is back after `kill -9` with nothing in the page cache.
//!
//! With `--long` these are 1,000,000 messages of 10 KB to 50,000 destinations, of which one has
//! 300,000; `docs/reports/deferred-1m.md` has the figures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tests::client::Client;
use tests::flood::{self, Messages};
use tests::load::SENDER;
use tests::memory::{self, mib};
use tests::probe::{Probe, Taken, percentile};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{ports, scenario, wait};
use tokio::process::Command;

const CONTENT_OCTETS: usize = 10_000;
/// Octets of a line of it.
const LINE: usize = 78;
const SESSIONS: usize = 16;
const RESIDENT_MAX: u64 = 500_000_000;
/// Octets on disk for each octet of content, in percent.
const DISK_MAX_PERCENT: u64 = 130;
const LIST_MAX: Duration = Duration::from_secs(1);
const BACK_MAX: Duration = Duration::from_secs(10);
const ACCEPT_MAX: Duration = Duration::from_secs(1);
const PROBE_EVERY: Duration = Duration::from_millis(50);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How much there is of everything.
struct Size {
    messages: usize,
    destinations: usize,
    /// To measure the rate of.
    fresh: usize,
    limit: Duration,
}

/// Three of ten messages are for one destination, the rest for all others alike.
fn domain(number: usize, destinations: usize) -> String {
    match number % 10 {
        0..3 => "crowd.later.test".to_owned(),
        _ => format!("d{}.dead.test", number % destinations),
    }
}

struct Scene {
    size: Size,
    postrider: Postrider,
    data: PathBuf,
    /// Where fresh mail goes.
    sink: Sink,
    /// Where nobody listens until the queue is back.
    dead: SocketAddr,
    _later: Sink,
}

impl Scene {
    async fn start(dir: &Path, size: Size) -> Result<Self> {
        let (sink, data) = (Sink::start().await?, dir.join("data"));
        let later = Sink::with_verdict(Arc::new(|_| Some("451 4.7.1 come back later"))).await?;
        let dead = ports::free_address()?;
        let route = |domain: &str, port: u16| {
            format!(
                "  - {{domain: .{domain}, host: \"127.0.0.1\", port: {port}, \
                 retry: {{intervalsSeconds: [86400], repeatSeconds: 86400}}}}\n"
            )
        };
        let routes = route("later.test", later.address().port()) + &route("dead.test", dead.port());
        let config =
            scenario::config(&sink, &data).replace("  routes:\n", &format!("  routes:\n{routes}"));
        let mut postrider = Postrider::new(&dir.join("etc"), &config)?;
        postrider.write_domain("local.test", &["alice"])?;
        postrider.start().await?;
        Ok(Self { size, postrider, data, sink, dead, _later: later })
    }

    /// Messages a second, from the first MAIL to the last arrival, of small ones that go through.
    async fn fresh_rate(&self, name: &str) -> Result<f64> {
        let before = self.sink.count();
        let (all, name) = (self.size.fresh, name.to_owned());
        let recipients: flood::Recipients =
            Arc::new(move |n| vec![format!("{name}{n}@d{}.good.test", n % 20)]);
        let begun = Instant::now();
        let address = self.postrider.address("submission");
        flood::send(address, SESSIONS, 0..all, &recipients).await?;
        wait::until("fresh mail at the sink", self.size.limit, async || {
            (self.sink.count() >= before + all).then_some(())
        })
        .await?;
        Ok(all as f64 / begun.elapsed().as_secs_f64())
    }

    async fn stats(&self) -> Result<Value> {
        let text = self.postrider.cli(&["queue", "stats", "--output", "json"]).await?;
        Ok(serde_json::from_str(&text)?)
    }

    async fn until_deferred(&self, wanted: usize) -> Result<()> {
        wait::until_every(LOOK_EVERY, "all to be deferred", self.size.limit, async || {
            let stats = self.stats().await.ok()?;
            (stats["deferred"].as_u64()? == wanted as u64).then_some(())
        })
        .await
    }

    /// Accepts all of it.
    async fn fill(&self) -> Result<()> {
        let (begun, destinations) = (Instant::now(), self.size.destinations);
        let text = text();
        let messages: Messages = Arc::new(move |number| {
            // Whole lines, from another place for each.
            let lines = (text.len() - CONTENT_OCTETS) / LINE;
            let at = number.wrapping_mul(7919) % lines * LINE;
            let mut content = format!("From: <{SENDER}>\r\nSubject: {number}\r\n\r\n").into_bytes();
            content.extend_from_slice(&text[at..at + CONTENT_OCTETS / LINE * LINE]);
            (vec![format!("u{number}@{}", domain(number, destinations))], content)
        });
        let address = self.postrider.address("submission");
        let mut sent = 0;
        while sent < self.size.messages {
            let next = (sent + self.size.messages.div_ceil(10)).min(self.size.messages);
            flood::send_messages(SENDER, address, SESSIONS, sent..next, &messages).await?;
            sent = next;
            println!("{sent} accepted after {:?}", begun.elapsed());
        }
        self.until_deferred(self.size.messages).await?;
        println!("all deferred after {:?}", begun.elapsed());
        Ok(())
    }

    async fn check_cost(&self) -> Result<()> {
        let content = self.stats().await?["contentBytes"].as_u64().context("no contentBytes")?;
        let disk = memory::on_disk(&self.data)?;
        let resident = memory::until_below(self.postrider.pid(), RESIDENT_MAX).await?;
        let percent = disk * 100 / content.max(1);
        let peak = mib(memory::peak(self.postrider.pid())?);
        println!(
            "RSS {} MiB (peak {peak}), {} MiB of content on {} MiB of disk ({percent} %)",
            mib(resident),
            mib(content),
            mib(disk)
        );
        // An empty queue has its segment, a spare one, and its checkpoint.
        let slack = 160 << 20;
        ensure!(disk <= content * DISK_MAX_PERCENT / 100 + slack, "{} MiB on disk", mib(disk));
        Ok(())
    }

    /// Runs a command line while new mail comes in; gives its output, and how long it took.
    async fn command(&self, args: &[&str]) -> Result<(String, Duration)> {
        let address = self.postrider.address("submission");
        let name = format!("p{:08x}", rand::random::<u32>());
        let probe = Probe::start(address, &name, std::iter::repeat(PROBE_EVERY)).await?;
        let begun = Instant::now();
        let output = self.postrider.cli(args).await;
        let took = begun.elapsed();
        let Taken { to_accept, to_deliver } = probe.stop(&self.sink).await?;
        let longest = to_accept.last().copied().unwrap_or_default();
        println!(
            "`postrider {}`: {took:?}; meanwhile {} messages: to 250 at most {longest:?}; to the \
             sink p99 {:?}",
            args.join(" "),
            to_accept.len(),
            percentile(&to_deliver, 99),
        );
        ensure!(longest < ACCEPT_MAX, "a message was accepted after {longest:?}");
        Ok((output?, took))
    }

    async fn operate(&self) -> Result<()> {
        let crowd = "crowd.later.test";
        // 7 of 70 in a row are for a destination with a number that 10 does not divide.
        let one = domain(3, self.size.destinations);
        let wanted =
            (0..self.size.messages).filter(|&n| domain(n, self.size.destinations) == one).count();
        let (listed, took) = self.command(&["queue", "list", "--recipient-domain", &one]).await?;
        ensure!(listed.matches(&format!("@{one}")).count() == wanted, "{wanted}: {listed}");
        ensure!(took <= LIST_MAX, "one domain was listed in {took:?}");
        let many = (0..self.size.messages).filter(|n| n % 10 < 3).count();
        for action in ["hold", "release"] {
            let (said, _) = self.command(&["queue", action, "--recipient-domain", crowd]).await?;
            ensure!(said.contains(&format!("{many} done")), "{said}");
        }
        Ok(())
    }

    /// `kill -9`, and everything read from the disk again: the first `250`, and the first attempt.
    async fn come_back(&mut self) -> Result<()> {
        self.postrider.kill().await?;
        drop_from_page_cache(&self.data).await?;
        let first_attempt = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&first_attempt);
        let verdict = move |_: &str| {
            seen.lock().expect("no panic holding it").get_or_insert_with(Instant::now);
            Some("451 4.7.1 come back later")
        };
        let begun = Instant::now();
        let _dead = Sink::bind(self.dead, Arc::new(verdict)).await?;
        self.postrider.start().await?;
        let started = begun.elapsed();
        let address = self.postrider.address("submission");
        let mut client = Client::submission(address, SENDER, PASSWORD).await?;
        let content = format!("From: <{SENDER}>\r\n\r\nbody\r\n");
        flood::message(&mut client, &["x@good.test".into()], content.as_bytes()).await?;
        let accepted = begun.elapsed();
        let attempted = wait::until("an attempt", self.size.limit, async || {
            *first_attempt.lock().expect("no panic holding it")
        })
        .await?
            - begun;
        println!("after kill -9: listening {started:?}, 250 {accepted:?}, attempt {attempted:?}");
        ensure!(accepted <= BACK_MAX && attempted <= BACK_MAX, "{accepted:?}, {attempted:?}");
        self.check_cost().await
    }
}

/// Text that no compression makes much smaller, in lines, for messages to be cut out of.
fn text() -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut text: Vec<u8> = (0..4 << 20).map(|_| rng.random_range(b'A'..=b'z')).collect();
    for line in text.chunks_exact_mut(LINE) {
        line[LINE - 2..].copy_from_slice(b"\r\n");
    }
    text
}

/// What is read from these files next comes from the disk.
async fn drop_from_page_cache(dir: &Path) -> Result<()> {
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.is_file() {
                let file = format!("if={}", path.display());
                let dd = Command::new("dd").args([&*file, "iflag=nocache", "count=0"]).output();
                let dd = dd.await.context("dd")?;
                ensure!(dd.status.success(), "{}", String::from_utf8_lossy(&dd.stderr));
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_mail_costs_little_and_is_back_soon() -> Result<()> {
    let size = match scenario::is_long() {
        true => Size {
            messages: 1_000_000,
            destinations: 50_000,
            fresh: 30_000,
            limit: Duration::from_secs(3600),
        },
        false => {
            Size { messages: 5_000, destinations: 250, fresh: 500, limit: Duration::from_secs(120) }
        }
    };
    let dir = tempfile::tempdir()?;
    let mut scene = Scene::start(dir.path(), size).await?;
    // The first messages of a process cost more than others: they would be an easy base.
    scene.fresh_rate("w").await?;
    let empty = scene.fresh_rate("e").await?;
    scene.fill().await?;
    scene.check_cost().await?;
    let full = scene.fresh_rate("f").await?;
    println!("fresh mail: {empty:.0}/s with an empty queue, {full:.0}/s beside the deferred");
    scene.operate().await?;
    scene.come_back().await?;
    // Of few messages the rate is noise.
    ensure!(!scenario::is_long() || full >= 0.8 * empty, "{full:.0} of {empty:.0}");
    scene.postrider.kill().await
}
