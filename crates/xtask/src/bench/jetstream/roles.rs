//! Processes of one role each, as they ship, relaying everything to the sink.
//!
//! As against Postfix the load goes to aliases of addresses at the sink; here of many domains, so
//! that every partition has next hops.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::servers::Servers;
use crate::bench::group::Group;
use crate::bench::server::{SINK_PORT, SMTP_PORT};

/// Domains at the sink, `sink0.test` and so on: five next hops for each of four partitions.
const DOMAINS: u32 = 20;

const START_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Ingress,
    Worker,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Worker => "worker",
        }
    }
}

/// Running; dropped, they are ended.
pub(super) struct Roles {
    pub(super) group: Group,
    children: Vec<Child>,
}

impl Roles {
    /// Starts one process of each, in a directory of its own below `dir`.
    pub(super) fn start(dir: &Path, servers: &Servers, roles: &[Role]) -> Result<Self> {
        let mut started = Self { group: Group::new("roles")?, children: Vec::new() };
        for role in roles {
            let home = dir.join(role.name());
            if home.exists() {
                fs::remove_dir_all(&home)?;
            }
            fs::create_dir_all(home.join("domains"))?;
            fs::write(home.join("postrider.yaml"), settings(servers))?;
            fs::write(home.join("domains/bench.yaml"), domain())?;
            started.start_one(*role, &home)?;
        }
        Ok(started)
    }

    fn start_one(&mut self, role: Role, home: &Path) -> Result<()> {
        let output = fs::File::create(home.join("output.log"))?;
        let mut postrider = Command::new(std::env::current_exe()?.with_file_name("postrider"));
        postrider.args([role.name(), "--log", "json"]).arg(home).stdin(Stdio::null());
        postrider.stdout(output).stderr(fs::File::create(home.join("postrider.log"))?);
        let mut child = postrider.spawn().context("cannot run postrider")?;
        self.group.add(child.id())?;
        let ended = wait_until_ready(&mut child, &home.join("output.log"));
        self.children.push(child);
        ended.with_context(|| {
            let log = fs::read_to_string(home.join("postrider.log")).unwrap_or_default();
            format!("{} did not start: {}", role.name(), log.trim())
        })
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        self.group.end();
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

fn wait_until_ready(child: &mut Child, output: &PathBuf) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < START_MAX {
        let said = fs::read_to_string(output)?;
        if said.lines().any(|line| line.starts_with("ready")) {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended: {status}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("it is not ready after {} s", START_MAX.as_secs())
}

/// Everything that is not said here is as by default.
fn settings(servers: &Servers) -> String {
    format!(
        "hostname: mx.bench.test\n\
         dataDir: data\n\
         ingress:\n  listeners:\n  \
         - {{kind: relay, addresses: [\"127.0.0.1:{SMTP_PORT}\"]}}\n\
         delivery:\n  allowPrivateAddresses: true\n  routes:\n  \
         - {{domain: \"*\", host: \"127.0.0.1\", port: {SINK_PORT}}}\n\
         jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: {}\n\
         http:\n  address: \"127.0.0.1:0\"\n",
        servers.urls(),
        servers.monitor_urls(),
        servers.replicas(),
    )
}

/// `user0` to `user99` are at the sink.
fn domain() -> String {
    let mut yaml = "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
                    metadata: {name: bench}\nspec:\n  domain: bench.test\n  inbound:\n    \
                    aliases:\n    - {match: postmaster, to: [user0@sink0.test]}\n"
        .to_owned();
    for user in 0..100 {
        let domain = user % DOMAINS;
        yaml += &format!("    - {{match: user{user}, to: [user{user}@sink{domain}.test]}}\n");
    }
    yaml
}
