//! One step of a round: new streams, a load, and what became of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Runtime;

use super::roles::{Role, Roles};
use super::{Figures, Servers, Sink, raw, streams};
use crate::bench::generator::{self, Sent, Target};
use crate::bench::measure::{WAIT_IDLE, WAIT_MAX, of_arrived, of_sent};
use crate::bench::scenario::Load;
use crate::bench::server::{Product, Server};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The raw publisher.
    Raw,
    /// To the `250`: an ingress, and nobody who delivers.
    Accept,
    /// To the sink: an ingress and a worker.
    Deliver,
    /// The same at a rate that is far below what they can do.
    Latency,
}

impl Step {
    pub(super) const ALL: [Self; 4] = [Self::Raw, Self::Accept, Self::Deliver, Self::Latency];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Accept => "accept",
            Self::Deliver => "deliver",
            Self::Latency => "lat100",
        }
    }
}

/// As fast as it is accepted, from as many sessions as the raw publisher has messages in flight.
const LOAD: Load = Load {
    messages: 20_000,
    size_bytes: 10 * 1024,
    sessions: 64,
    messages_per_session: None,
    per_second: None,
};

const WARM: Load = Load { messages: 1000, ..LOAD };

/// Enough sessions that a slow reply delays no other message.
const AT_100: Load = Load { messages: 2000, per_second: Some(100.0), ..LOAD };

/// What is left in the streams when all has arrived is on its way out.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Where mail is; neither the marks of ended jobs nor who owns what.
const MAIL: [&str; 4] = ["intake", "reserve", "body-", "quarantine"];

pub(super) struct Bench<'a> {
    pub(super) sink: &'a Sink,
    pub(super) dir: &'a Path,
    pub(super) servers: &'a Servers,
    pub(super) messages: Option<u64>,
}

impl Bench<'_> {
    /// Runs it on new streams, and what is measured with it.
    pub(super) fn run(&self, step: Step) -> Result<Vec<(Step, Figures)>> {
        let runtime = Runtime::new()?;
        runtime.block_on(async {
            streams::delete_all(&streams::connect(self.servers).await?).await
        })?;
        let load = Load { messages: self.messages.unwrap_or(LOAD.messages), ..LOAD };
        match step {
            Step::Raw => {
                let raw = raw::publish(self.servers, load.messages, load.size_bytes);
                Ok(vec![(step, runtime.block_on(raw)?)])
            }
            Step::Accept => Ok(vec![(step, self.accept(&runtime, &load)?)]),
            Step::Deliver | Step::Latency => self.deliver(&runtime, &load),
        }
    }

    fn accept(&self, runtime: &Runtime, load: &Load) -> Result<Figures> {
        let roles = Roles::start(self.dir, self.servers, &[Role::Ingress])?;
        self.warm()?;
        let used = Used::start(self.servers, &roles)?;
        let sent = generator::send(load, target(Step::Accept.name()));
        let mut figures = of_sent(&sent)?;
        used.insert_into(&mut figures, sent.accepted.len())?;
        figures.insert("per_second", figures["accepted"] / sent.seconds);
        let queued = self.count(runtime)? as f64 - WARM.messages as f64;
        figures.insert("lost", (figures["accepted"] - queued).max(0.0));
        figures.insert("duplicates", (queued - figures["accepted"]).max(0.0));
        Ok(figures)
    }

    fn deliver(&self, runtime: &Runtime, load: &Load) -> Result<Vec<(Step, Figures)>> {
        let roles = Roles::start(self.dir, self.servers, &[Role::Ingress, Role::Worker])?;
        let warm = self.warm()?;
        self.sink.wait_for(warm.accepted.len(), WAIT_IDLE, WAIT_MAX);
        let mut steps = Vec::new();
        for (step, load) in [(Step::Deliver, load), (Step::Latency, &AT_100)] {
            // What is late from the step before counts in neither.
            self.sink.reset(step.name());
            let used = Used::start(self.servers, &roles)?;
            let sent = generator::send(load, target(step.name()));
            self.sink.wait_for(sent.accepted.len(), WAIT_IDLE, WAIT_MAX);
            self.tell_late(runtime, sent.accepted.len())?;
            let mut figures = of_sent(&sent)?;
            used.insert_into(&mut figures, sent.accepted.len())?;
            figures.insert("accept_per_second", figures["accepted"] / sent.seconds);
            let left = self.drain(runtime)?;
            figures.extend(of_arrived(&sent, &self.sink.arrived())?);
            figures.insert("left", left as f64);
            steps.push((step, figures));
        }
        Ok(steps)
    }

    fn warm(&self) -> Result<Sent> {
        self.sink.reset("warm");
        let sent = generator::send(&WARM, target("warm"));
        let failure = sent.first_failure.as_deref().unwrap_or_default();
        ensure!(sent.accepted.len() as u64 == WARM.messages, "refused while warming up: {failure}");
        Ok(sent)
    }

    /// Messages that still are in the streams after a while.
    fn drain(&self, runtime: &Runtime) -> Result<u64> {
        let started = Instant::now();
        loop {
            let left = self.count(runtime)?;
            if left == 0 || started.elapsed() > DRAIN_MAX {
                return Ok(left);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where they are that have not arrived after a while.
    fn tell_late(&self, runtime: &Runtime, wanted: usize) -> Result<()> {
        let late = wanted.saturating_sub(self.sink.count());
        if late > 0 {
            let context = runtime.block_on(streams::connect(self.servers))?;
            let places = runtime.block_on(streams::describe(&context, &MAIL))?;
            println!("  {late} messages are late: {}", places.join("; "));
        }
        Ok(())
    }

    fn count(&self, runtime: &Runtime) -> Result<u64> {
        runtime
            .block_on(async { streams::count(&streams::connect(self.servers).await?, &MAIL).await })
    }
}

fn target(run: &str) -> Target<'_> {
    let domain = Product::Postrider.recipient_domain();
    Target { address: Server::address(), domain, run }
}

/// CPU seconds since the start of a step.
struct Used<'a> {
    servers: &'a Servers,
    roles: &'a Roles,
    before: [f64; 3],
}

impl<'a> Used<'a> {
    /// What has just started settles before the counters are read.
    fn start(servers: &'a Servers, roles: &'a Roles) -> Result<Self> {
        std::thread::sleep(Duration::from_secs(1));
        let mut used = Self { servers, roles, before: [0.0; 3] };
        used.before = used.read()?;
        Ok(used)
    }

    fn read(&self) -> Result<[f64; 3]> {
        Ok([self.servers.group.cpu_seconds()?, self.roles.group.cpu_seconds()?, own_cpu_seconds()?])
    }

    fn insert_into(&self, figures: &mut Figures, messages: usize) -> Result<()> {
        let names = ["servers_cpu_per_1000", "roles_cpu_per_1000", "bench_cpu_per_1000"];
        for ((name, now), before) in names.into_iter().zip(self.read()?).zip(self.before) {
            figures.insert(name, (now - before) * 1000.0 / messages as f64);
        }
        Ok(())
    }
}

/// Of the generator and the sink, which are this process.
fn own_cpu_seconds() -> Result<f64> {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name, in parentheses, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').context("/proc/self/stat has no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
}
