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
    /// More settings of the section `jetstream`, or others instead of a test's own, as lines.
    pub jetstream: Vec<String>,
    /// More settings of the section `ingress`, as lines.
    pub ingress: Vec<String>,
    /// Routes before the one to the sink, as elements of the YAML list.
    pub routes: Vec<String>,
    /// More sections of the configuration.
    pub sections: String,
    /// After so long deferred mail is tried again.
    pub retry_seconds: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            servers: 3,
            ingresses: 2,
            workers: 3,
            jetstream: Vec::new(),
            ingress: Vec::new(),
            routes: Vec::new(),
            sections: String::new(),
            retry_seconds: 1,
        }
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
        Self::start_on(dir, size, sink, &Settings::default()).await
    }

    /// The same with other settings of the servers.
    pub async fn start_on(
        dir: &Path,
        size: Size,
        sink: &Sink,
        settings: &Settings,
    ) -> Result<Self> {
        let servers = Cluster::start_in(&dir.join("nats"), size.servers, settings).await?;
        let retry = format!(": [{0}], repeatSeconds: {0}", size.retry_seconds);
        let make = |role: &str, number: usize| {
            let home = dir.join(format!("{role}-{number}"));
            let data = home.join("data");
            let config = scenario::config(sink, &data).replace(": [1], repeatSeconds: 1", &retry);
            let config = with_lines(config, "  routes:\n", "  - ", &size.routes);
            let config = with_lines(config, "ingress:\n", "  ", &size.ingress);
            let config = config + &jetstream(&servers, &size) + &size.sections;
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
const JETSTREAM: [&str; 5] = [
    "ackWaitSeconds: 10",
    "ownershipTtlSeconds: 5",
    "timeoutSeconds: 5",
    "intakeBytes: 1073741824",
    "reserveBytes: 268435456",
];

/// The section of the configuration with which a role finds its servers.
pub(crate) fn jetstream(servers: &Cluster, size: &Size) -> String {
    let mut section = format!(
        "jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: {}\n",
        servers.urls(),
        servers.monitor_urls(),
        size.servers,
    );
    let name = |line: &str| line.split(':').next().map(str::to_owned);
    let is_default = |line: &&str| !size.jetstream.iter().any(|own| name(own) == name(line));
    let lines = JETSTREAM.into_iter().filter(is_default);
    for line in lines.chain(size.jetstream.iter().map(String::as_str)) {
        section += &format!("  {line}\n");
    }
    section
}

/// Puts lines behind the head of their section.
pub(crate) fn with_lines(config: String, section: &str, indent: &str, lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{indent}{line}\n")).collect();
    config.replace(section, &format!("{section}{lines}"))
}
