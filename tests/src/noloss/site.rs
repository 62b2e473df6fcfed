//! The cluster under test: every process, and everything around it that can fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;

use super::Options;
use super::clients::{Doors, Reception};
use super::destinations::Destinations;
use super::letter::domain;
use super::sabotage::Sabotage;
use crate::forwarder::{Forwarder, Tampering};
use crate::nats::wires::{Home, Wires};
use crate::nats::{Cluster, Settings};
use crate::powercut::Disk;
use crate::process::Postrider;
use crate::{scenario, tools, wait};

pub(super) const SERVERS: usize = 3;
/// By their place in [`Site::roles`].
pub(super) const ROLES: [&str; 6] = ["ingress", "ingress", "worker", "worker", "worker", "mda"];
const WORKER: usize = 2;
const MDA: usize = 5;
/// Of each server's store.
const DISK_MIB: u64 = 1_024;

pub(super) struct Site {
    pub(super) servers: Cluster,
    pub(super) wires: Wires,
    /// After the servers that run on them: dropped later.
    pub(super) disks: Vec<Disk>,
    pub(super) roles: Vec<Role>,
    mda_data: PathBuf,
}

/// A role's process and its surroundings.
pub(super) struct Role {
    pub(super) process: Postrider,
    /// To each server.
    pub(super) links: Vec<Link>,
    pub(super) clock: Clock,
    /// Where clients find it, if it is an ingress.
    reception: Option<Reception>,
}

/// From a role to a server.
pub(super) struct Link {
    client: Forwarder,
    monitor: Forwarder,
}

impl Link {
    async fn to(server: &crate::nats::Server, tampering: Option<Tampering>) -> Result<Self> {
        let client = server.url().trim_start_matches("nats://").parse()?;
        let monitor = server.monitor_url().trim_start_matches("http://").parse()?;
        let client = Forwarder::tampering(client, tampering).await?;
        Ok(Self { client, monitor: Forwarder::start(monitor).await? })
    }

    pub(super) fn cut(&self) {
        self.client.cut();
        self.monitor.cut();
    }

    pub(super) fn heal(&self) {
        self.client.heal();
        self.monitor.heal();
    }
}

/// The clock that a process sees, by libfaketime: its wall clock only, the time between two moments
/// stays true. A server of NATS cannot be stepped so: Go asks the kernel without the C library.
pub(super) struct Clock {
    file: PathBuf,
}

impl Clock {
    fn of(process: &mut Postrider) -> Result<Self> {
        let file = process.dir().join("clock");
        fs::write(&file, "+0\n")?;
        let libraries = tools::path("faketime/usr/lib")?;
        let mut triplets = fs::read_dir(&libraries)?.filter_map(|entry| Some(entry.ok()?.path()));
        let library = triplets.find_map(|dir| {
            let library = dir.join("faketime/libfaketimeMT.so.1");
            library.exists().then_some(library)
        });
        let library = library.with_context(|| {
            format!("no libfaketime below {}: run `cargo xtask tools`", libraries.display())
        })?;
        process.set_env("LD_PRELOAD", &library.display().to_string());
        process.set_env("FAKETIME_TIMESTAMP_FILE", &file.display().to_string());
        // How long it goes by what it has read, in seconds.
        process.set_env("FAKETIME_CACHE_DURATION", "1");
        process.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(Self { file })
    }

    /// Sets it so far from the true time.
    pub(super) fn step(&self, seconds: i64) -> Result<()> {
        // Replaced at once: the process may look at any moment.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        Ok(fs::rename(new, &self.file)?)
    }
}

impl Role {
    /// Starts it; clients hear where it listens.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.process.start().await?;
        if let Some(reception) = &self.reception {
            let submission = self.process.address("submission");
            let relay = self.process.address("relay");
            reception.store(Arc::new(Some(Doors { submission, relay })));
        }
        Ok(())
    }

    /// Clients hear that it is gone.
    pub(super) fn close_reception(&self) {
        if let Some(reception) = &self.reception {
            reception.store(Arc::new(None));
        }
    }
}

impl Site {
    /// Starts everything below `dir`, and waits until it is ready.
    pub(super) async fn start(
        dir: &Path,
        destinations: &Destinations,
        options: &Options,
    ) -> Result<Self> {
        let Options { sabotage, order, .. } = *options;
        let (mut disks, mut homes) = (Vec::new(), Vec::new());
        for server in 0..SERVERS {
            let dir = dir.join(format!("server-{server}"));
            let disk = Disk::prepare(&dir.join("disk"), DISK_MIB, order)?;
            homes.push(Home { store: disk.mount_point().join("store"), dir });
            disks.push(disk);
        }
        let lazily = sabotage == Some(Sabotage::LazySync);
        let sync_interval = if lazily { "2m" } else { "always" };
        let settings = Settings { sync_interval, ..Settings::default() };
        let (servers, wires) = Cluster::start_wired(&homes, &settings).await?;
        let (roles, mda_data) = (Vec::new(), dir.join(format!("role-{MDA}/data")));
        let mut site = Self { servers, wires, disks, roles, mda_data };
        for (place, name) in ROLES.into_iter().enumerate() {
            let home = dir.join(format!("role-{place}"));
            let mut role = site.role(name, &home, destinations, sabotage).await?;
            role.start().await.with_context(|| format!("role {place}, {name}"))?;
            site.roles.push(role);
        }
        Ok(site)
    }

    async fn role(
        &self,
        name: &str,
        home: &Path,
        destinations: &Destinations,
        sabotage: Option<Sabotage>,
    ) -> Result<Role> {
        let tampering = sabotage.and_then(Sabotage::tampering);
        let mut links = Vec::new();
        for server in 0..SERVERS {
            links.push(Link::to(self.servers.server(server), tampering).await?);
        }
        let data = home.join("data");
        fs::create_dir_all(&data)?;
        let lines: String =
            destinations.routes().iter().map(|route| format!("  - {route}\n")).collect();
        let config = scenario::config(destinations.good(), &data)
            .replace("  routes:\n", &format!("  routes:\n{lines}"))
            + &jetstream(&links, sabotage);
        let mut process = Postrider::of_role(name, home, &config)?;
        process.write_domain("local.test", &["alice", "bob"])?;
        let clock = Clock::of(&mut process)?;
        let reception = (name == "ingress").then(|| Arc::new(ArcSwap::from_pointee(None)));
        Ok(Role { process, links, clock, reception })
    }

    /// Where the mailboxes are.
    pub(super) fn mda_data(&self) -> &Path {
        &self.mda_data
    }

    pub(super) fn receptions(&self) -> Vec<Reception> {
        self.roles.iter().filter_map(|role| role.reception.clone()).collect()
    }

    /// What an operator does about mail that cannot be delivered: its senders are told.
    pub(super) async fn give_up_dead(&self) -> Result<()> {
        let worker = &self.roles[WORKER].process;
        worker.cli(&["queue", "cancel", "--recipient-domain", domain::DEAD]).await.map(drop)
    }

    /// Waits until no job is in the queue.
    pub(super) async fn until_empty(&self, limit: Duration) -> Result<()> {
        let worker = &self.roles[WORKER].process;
        let mut last = String::new();
        let emptied = wait::until("an empty queue", limit, async || {
            last = worker.cli(&["queue", "list", "--output", "json"]).await.ok()?;
            last.is_empty().then_some(())
        })
        .await;
        emptied.with_context(|| format!("the queue still has {last}"))
    }

    pub(super) async fn stop(&mut self, limit: Duration) -> Result<()> {
        for (place, role) in self.roles.iter_mut().enumerate() {
            let code = role.process.stop(limit).await?;
            anyhow::ensure!(code == Some(0), "role {place}: exit code {code:?} after SIGTERM");
        }
        Ok(())
    }
}

/// Times are short, so that what a dead process had comes to others within a run.
fn jetstream(links: &[Link], sabotage: Option<Sabotage>) -> String {
    let urls = |scheme: &str, port: fn(&Link) -> u16| -> Vec<String> {
        links.iter().map(|link| format!("{scheme}://127.0.0.1:{}", port(link))).collect()
    };
    let monitors = match sabotage {
        Some(Sabotage::LazySync) => "allowUnverifiedSync: true".to_owned(),
        _ => format!("monitorUrls: {:?}", urls("http", |link| link.monitor.address().port())),
    };
    format!(
        "jetstream:\n  urls: {:?}\n  {monitors}\n  replicas: {SERVERS}\n  ackWaitSeconds: 10\n  \
         ownershipTtlSeconds: 5\n  timeoutSeconds: 5\n  intakeBytes: 1073741824\n  \
         reserveBytes: 268435456\n",
        urls("nats", |link| link.client.address().port()),
    )
}
