//! Deferred mail in numbers: it is listed, held and released by the command line, it is there after
//! everything was killed at once, and all the while new mail is accepted and delivered.
//!
//! With `--long` these are 200,000 messages; `docs/reports/deferred-200k.md` has the figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::exposition::Exposition;
use tests::flood::{self, Recipients};
use tests::memory::{self, mib};
use tests::mesh::{Mesh, Size};
use tests::nats::Settings;
use tests::probe::{Probe, Taken, percentile};
use tests::process::Postrider;
use tests::sink::Sink;
use tests::{scenario, wait};

const DOMAINS: usize = 10;
/// New mail is accepted within this, whatever an operator does to the old.
const ACCEPT_MAX: Duration = Duration::from_secs(1);
const PROBE_EVERY: Duration = Duration::from_millis(50);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The mesh, the destination that puts everything off until it is opened, and how much mail
/// waits for it.
struct Scene {
    mesh: Mesh,
    /// Where the probe's mail goes.
    sink: Sink,
    later: Sink,
    opened: Arc<AtomicBool>,
    waiting: usize,
    limit: Duration,
}

fn domain(number: usize) -> String {
    format!("d{}.later.test", number % DOMAINS)
}

/// What `queue stats` says of all partitions, asked at any worker that runs.
async fn stats(workers: &[Postrider], name: &str) -> Result<usize> {
    let worker = workers.iter().find(|worker| worker.is_running()).context("none runs")?;
    let text = worker.cli(&["queue", "stats", "--output", "json"]).await?;
    let stats: Value = serde_json::from_str(&text)?;
    Ok(usize::try_from(stats[name].as_u64().with_context(|| text.clone())?)?)
}

impl Scene {
    async fn start(dir: &std::path::Path, limit: Duration) -> Result<Self> {
        let sink = Sink::start().await?;
        let opened = Arc::new(AtomicBool::new(false));
        let is_open = Arc::clone(&opened);
        let verdict = move |_: &str| {
            let is_open = is_open.load(Ordering::SeqCst);
            (!is_open).then_some("451 4.7.1 come back tomorrow")
        };
        let later = Sink::with_verdict(Arc::new(verdict)).await?;
        let route = format!(
            "{{domain: .later.test, host: \"127.0.0.1\", port: {}, \
             retry: {{intervalsSeconds: [86400], repeatSeconds: 86400}}}}",
            later.address().port()
        );
        let size = Size { ingresses: 1, workers: 2, routes: vec![route], ..Size::default() };
        let settings = Settings { file_store_bytes_max: 16 << 30, ..Settings::default() };
        let mesh = Mesh::start_on(dir, size, &sink, &settings).await?;
        Ok(Self { mesh, sink, later, opened, waiting: 0, limit })
    }

    fn workers(&self) -> &[Postrider] {
        &self.mesh.workers
    }

    /// Waits until the workers that run know all that waits in these phases.
    async fn until_known(&self, phases: &[(&str, usize)]) -> Result<Duration> {
        let begun = Instant::now();
        let what = format!("{phases:?}");
        let mut last = Vec::new();
        let waited = wait::until_every(LOOK_EVERY, &what, self.limit, async || {
            last.clear();
            for (name, wanted) in phases {
                // A worker that has just started has no socket yet.
                last.push((*name, stats(self.workers(), name).await.unwrap_or(0), *wanted));
            }
            last.iter().all(|(_, there, wanted)| there == wanted).then_some(())
        })
        .await;
        waited.with_context(|| format!("there are {last:?}"))?;
        Ok(begun.elapsed())
    }

    /// Accepts mail until so much waits.
    async fn defer(&mut self, up_to: usize) -> Result<()> {
        let begun = Instant::now();
        let recipients: Recipients = Arc::new(|n| vec![format!("u{n}@{}", domain(n))]);
        let address = self.mesh.ingresses[0].address("submission");
        flood::send(address, 16, self.waiting..up_to, &recipients).await?;
        let accepted = begun.elapsed();
        let more = up_to - self.waiting;
        self.waiting = up_to;
        self.until_known(&[("deferred", up_to)]).await?;
        println!("{more} more accepted in {accepted:?}, all deferred after {:?}", begun.elapsed());
        self.print_memory()
    }

    fn print_memory(&self) -> Result<()> {
        let mut line = format!("{} wait; RSS in MiB:", self.waiting);
        for process in self.mesh.processes().into_iter().filter(|process| process.is_running()) {
            line += &format!(" {} {}", process.role(), mib(memory::resident(process.pid())?));
        }
        for n in 0..self.mesh.servers.len() {
            let server = self.mesh.servers.server(n);
            let pid = server.pid().context("a server is down")?;
            let disk = memory::on_disk(server.store_dir())?;
            line += &format!(" server {} ({} on disk)", mib(memory::resident(pid)?), mib(disk));
        }
        println!("{line}");
        Ok(())
    }

    /// Runs a command line while new mail comes in; gives its output.
    async fn command(&self, args: &[&str]) -> Result<String> {
        let address = self.mesh.ingresses[0].address("submission");
        let name = format!("p{:08x}", rand::random::<u32>());
        let probe = Probe::start(address, &name, std::iter::repeat(PROBE_EVERY)).await?;
        let begun = Instant::now();
        let output = self.mesh.workers[0].cli(args).await;
        let took = begun.elapsed();
        let Taken { to_accept, to_deliver } = probe.stop(&self.sink).await?;
        let longest = to_accept.last().copied().unwrap_or_default();
        println!(
            "`postrider {}`: {took:?}; meanwhile {} messages: to 250 p99 {:?}, at most \
             {longest:?}; to the sink p99 {:?}",
            args.join(" "),
            to_accept.len(),
            percentile(&to_accept, 99),
            percentile(&to_deliver, 99),
        );
        ensure!(longest < ACCEPT_MAX, "a message was accepted after {longest:?}");
        output
    }

    /// `kill -9` of all roles and servers at once; all start again on what is on the disks.
    async fn kill_and_start_everything(&mut self, phases: &[(&str, usize)]) -> Result<()> {
        for process in self.mesh.processes_mut() {
            process.kill().await?;
        }
        for n in 0..self.mesh.servers.len() {
            self.mesh.servers.kill(n)?;
        }
        let begun = Instant::now();
        for n in 0..self.mesh.servers.len() {
            self.mesh.servers.restart(n)?;
        }
        self.mesh.servers.until_current(self.limit).await?;
        let servers = begun.elapsed();
        let begun = Instant::now();
        for process in self.mesh.processes_mut() {
            process.start().await?;
        }
        self.until_known(phases).await?;
        println!("servers current after {servers:?}, all jobs known after {:?}", begun.elapsed());
        self.print_memory()
    }

    /// One worker leaves, and the other takes all that it had.
    async fn hand_over(&mut self, phases: &[(&str, usize)]) -> Result<()> {
        let had = Exposition::of(&self.mesh.workers[0]).await?.sum("postrider_queue_messages", "");
        let begun = Instant::now();
        let code = self.mesh.workers[0].stop(self.limit).await?;
        ensure!(code == Some(0), "exit code {code:?}");
        let stopped = begun.elapsed();
        self.until_known(phases).await?;
        println!(
            "handing {had} jobs over took {:?}, {stopped:?} of it until the worker was gone",
            begun.elapsed()
        );
        self.print_memory()?;
        self.mesh.workers[0].start().await?;
        self.until_known(phases).await.map(drop)
    }

    /// Opens the destination; all that was released comes, once each.
    async fn deliver_all(&self) -> Result<()> {
        let begun = Instant::now();
        let what = format!("{} messages at the sink", self.waiting);
        wait::until_every(LOOK_EVERY, &what, self.limit, async || {
            (self.later.count() >= self.waiting).then_some(())
        })
        .await?;
        println!("all delivered {:?} after the last was released", begun.elapsed());
        self.until_known(&[("messages", 0)]).await?;
        let mut received: Vec<_> =
            self.later.received().into_iter().flat_map(|one| one.recipients).collect();
        received.sort();
        received.dedup();
        ensure!(received.len() == self.waiting, "{} recipients have mail", received.len());
        ensure!(self.later.count() == self.waiting, "{} came twice", self.later.count());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_mail_is_held_listed_released_and_survives() -> Result<()> {
    let (steps, limit) = match scenario::is_long() {
        true => ([50_000, 100_000, 200_000], Duration::from_secs(3600)),
        false => ([200, 400, 1000], Duration::from_secs(60)),
    };
    let dir = tempfile::tempdir()?;
    let mut scene = Scene::start(dir.path(), limit).await?;
    scene.print_memory()?;
    for up_to in steps {
        scene.defer(up_to).await?;
    }
    let (all, share) = (scene.waiting, scene.waiting / DOMAINS);
    let listed = scene
        .command(&["queue", "list", "--recipient-domain", &domain(3), "--output", "json"])
        .await?;
    ensure!(listed.lines().count() == share, "{} listed", listed.lines().count());
    let of_others = listed.lines().find(|line| !line.contains(&domain(3)));
    ensure!(of_others.is_none(), "{of_others:?}");
    let said = scene.command(&["queue", "hold", "--recipient-domain", &domain(3)]).await?;
    ensure!(said.contains(&format!("{share} done")), "{said}");
    let phases = [("held", share), ("deferred", all - share)];
    scene.until_known(&phases).await?;
    scene.kill_and_start_everything(&phases).await?;
    scene.hand_over(&phases).await?;
    let said = scene.command(&["queue", "hold", "--phase", "deferred"]).await?;
    ensure!(said.contains(&format!("{} done", all - share)), "{said}");
    scene.until_known(&[("held", all), ("deferred", 0)]).await?;
    scene.opened.store(true, Ordering::SeqCst);
    ensure!(scene.later.count() == 0, "held mail was delivered");
    let said = scene.command(&["queue", "release", "--phase", "held"]).await?;
    ensure!(said.contains(&format!("{all} done")), "{said}");
    scene.deliver_all().await?;
    scene.print_memory()?;
    scene.mesh.stop(Duration::from_secs(60)).await
}
