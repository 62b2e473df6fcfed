//! One process, or the same in roles on JetStream: for tests of what both must do.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::mesh::{self, Size};
use crate::nats::{Cluster, Settings};
use crate::process::Postrider;
use crate::wait;

const TABLE_LIMIT: Duration = Duration::from_secs(60);

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OneProcess,
    /// An ingress, a worker and an MDA, on one NATS server.
    Roles,
}

/// The processes.
pub struct Home {
    /// The one process, or the ingress.
    front: Postrider,
    roles: Option<Box<Roles>>,
}

struct Roles {
    worker: Postrider,
    mda: Postrider,
    _servers: Cluster,
}

impl Home {
    /// Starts the processes below `dir`, each with what `config` makes of its data directory, and
    /// with one domain.
    pub async fn start(
        kind: Kind,
        dir: &Path,
        config: impl Fn(&Path) -> String,
        (domain, mailboxes): (&str, &[&str]),
    ) -> Result<Self> {
        let make = |role: &str, more: &str| {
            let home = dir.join(role);
            let data = home.join("data");
            fs::create_dir_all(&data)?;
            let process = Postrider::of_role(role, &home, &(config(&data) + more))?;
            process.write_domain(domain, mailboxes)?;
            anyhow::Ok(process)
        };
        let mut home = match kind {
            Kind::OneProcess => Self { front: make("serve", "")?, roles: None },
            Kind::Roles => {
                let size = Size { servers: 1, ..Size::default() };
                let settings = Settings::default();
                let servers = Cluster::start_in(&dir.join("nats"), size.servers, &settings).await?;
                let section = mesh::jetstream(&servers, &size);
                let (worker, mda) = (make("worker", &section)?, make("mda", &section)?);
                let roles = Box::new(Roles { worker, mda, _servers: servers });
                Self { front: make("ingress", &section)?, roles: Some(roles) }
            }
        };
        for process in home.processes() {
            process.start().await?;
        }
        Ok(home)
    }

    /// Who takes mail.
    pub fn ingress(&self) -> &Postrider {
        &self.front
    }

    /// Who hands mail to others, and is asked for the queue.
    pub fn worker(&self) -> &Postrider {
        self.roles.as_ref().map_or(&self.front, |roles| &roles.worker)
    }

    /// Who writes mailboxes.
    pub fn mda(&self) -> &Postrider {
        self.roles.as_ref().map_or(&self.front, |roles| &roles.mda)
    }

    /// The same, to be ended and started.
    pub fn mda_mut(&mut self) -> &mut Postrider {
        self.roles.as_mut().map_or(&mut self.front, |roles| &mut roles.mda)
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Postrider> {
        let roles = self.roles.as_deref_mut();
        let roles = roles.into_iter().flat_map(|roles| [&mut roles.worker, &mut roles.mda]);
        [&mut self.front].into_iter().chain(roles)
    }

    /// Writes a file of resources for all, which are to see that it has changed.
    pub async fn change(&mut self, file: &str, text: &str) -> Result<()> {
        self.write(file, text, "table_changed").await.map(drop)
    }

    /// Writes one for all that is wrong; gives what each says of it.
    pub async fn mistake(&mut self, file: &str, text: &str) -> Result<Vec<String>> {
        let lines = self.write(file, text, "table_refused").await?;
        Ok(lines.iter().map(|line| line["error"].to_string()).collect())
    }

    /// Writes a file for all, and waits until each logs this; gives the lines.
    async fn write(&mut self, file: &str, text: &str, event: &str) -> Result<Vec<Value>> {
        let logged = |process: &Postrider| {
            let log = process.log()?;
            anyhow::Ok(log.into_iter().filter(|line| line["event"] == event).collect::<Vec<_>>())
        };
        let mut before = Vec::new();
        for process in self.processes() {
            before.push(logged(process)?.len());
            fs::write(process.dir().join("domains").join(file), text)?;
        }
        let mut lines = Vec::new();
        for (process, before) in self.processes().zip(before) {
            let new = async || logged(process).ok()?.into_iter().nth(before);
            lines.push(wait::until(event, TABLE_LIMIT, new).await?);
        }
        Ok(lines)
    }

    /// SIGTERM to all; each must end well.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        for process in self.processes() {
            let code = process.stop(limit).await.context("after SIGTERM")?;
            ensure!(code == Some(0), "exit code {code:?} after SIGTERM");
        }
        Ok(())
    }
}
