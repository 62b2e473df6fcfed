//! A whole cluster on loopback: NATS servers, and every role in processes of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::nats::{Cluster, Settings};
use crate::process::Postrider;
use crate::scenario;
use crate::sink::Sink;

/// How many processes of each role there are, and what is special about them.
#[derive(Debug, Clone)]
pub struct Size {
    pub servers: usize,
    pub ingresses: usize,
    pub workers: usize,
    /// More settings of the section `jetstream`, as lines.
    pub jetstream: Vec<String>,
    /// Routes before the one to the sink, as elements of the YAML list.
    pub routes: Vec<String>,
}

impl Default for Size {
    fn default() -> Self {
        Self { servers: 3, ingresses: 2, workers: 3, jetstream: Vec::new(), routes: Vec::new() }
    }
}

pub struct Mesh {
    pub servers: Cluster,
    pub ingresses: Vec<Postrider>,
    pub workers: Vec<Postrider>,
    pub mda: Postrider,
    mda_data: PathBuf,
}

impl Mesh {
    /// Starts all; everything remote goes to `sink`. Hosts `local.test` with alice and bob.
    pub async fn start(dir: &Path, size: Size, sink: &Sink) -> Result<Self> {
        let servers =
            Cluster::start_in(&dir.join("nats"), size.servers, &Settings::default()).await?;
        let make = |role: &str, number: usize| {
            let home = dir.join(format!("{role}-{number}"));
            let data = home.join("data");
            let config = with_routes(scenario::config(sink, &data), &size.routes)
                + &jetstream(&servers, &size);
            fs::create_dir_all(&data)?;
            let process = Postrider::of_role(role, &home, &config)?;
            process.write_domain("local.test", &["alice", "bob"])?;
            Ok::<_, anyhow::Error>(process)
        };
        let ingresses = (0..size.ingresses).map(|n| make("ingress", n)).collect::<Result<_>>()?;
        let workers = (0..size.workers).map(|n| make("worker", n)).collect::<Result<_>>()?;
        let mda = make("mda", 0)?;
        let mda_data = dir.join("mda-0/data");
        let mut mesh = Self { servers, ingresses, workers, mda, mda_data };
        for process in mesh.processes_mut() {
            process.start().await?;
        }
        Ok(mesh)
    }

    /// Where the mailboxes are.
    pub fn mda_data(&self) -> &Path {
        &self.mda_data
    }

    pub fn processes(&self) -> Vec<&Postrider> {
        self.ingresses.iter().chain(&self.workers).chain([&self.mda]).collect()
    }

    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Postrider> {
        self.ingresses.iter_mut().chain(&mut self.workers).chain([&mut self.mda])
    }

    /// SIGTERM to all roles; each must end well.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        for process in self.processes_mut() {
            let code = process.stop(limit).await?;
            anyhow::ensure!(code == Some(0), "exit code {code:?} after SIGTERM");
        }
        Ok(())
    }
}

/// Times are short, so that what a dead process had comes to others within a test.
fn jetstream(servers: &Cluster, size: &Size) -> String {
    let mut section = format!(
        "jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: {}\n  ackWaitSeconds: 10\n  \
         ownershipTtlSeconds: 5\n  timeoutSeconds: 5\n",
        servers.urls(),
        servers.monitor_urls(),
        size.servers,
    );
    let room = ["intakeBytes: 1073741824", "reserveBytes: 268435456"].map(String::from);
    let name = |line: &str| line.split(':').next().map(str::to_owned);
    let is_default = |line: &&String| !size.jetstream.iter().any(|own| name(own) == name(line));
    for line in room.iter().filter(is_default).chain(&size.jetstream) {
        section += &format!("  {line}\n");
    }
    section
}

fn with_routes(config: String, routes: &[String]) -> String {
    let lines: String = routes.iter().map(|route| format!("  - {route}\n")).collect();
    config.replace("  routes:\n", &format!("  routes:\n{lines}"))
}
