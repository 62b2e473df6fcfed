//! How a fault is brought about, and how it is mended.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::fault::Fault;
use super::site::{SERVERS, Site};
use crate::powercut::Disk;
use crate::wait;

/// Until servers that were disturbed are current again: on two cores under load it was 76 s.
const CURRENT_MAX: Duration = Duration::from_secs(180);
/// The same, before their operator does something about it.
const ALONE_MAX: Duration = Duration::from_secs(45);
/// Until a process has ended well.
const END_MAX: Duration = Duration::from_secs(60);
/// Until a process has seen that its clock was stepped.
const SEEN_MAX: Duration = Duration::from_secs(60);
/// Between two tries to have it log something.
const LOGS_EVERY: Duration = Duration::from_millis(500);

impl Site {
    pub(super) async fn strike(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::KillRole(role) => {
                self.roles[*role].close_reception();
                self.roles[*role].process.kill().await
            }
            Fault::StopRole(role) => self.roles[*role].process.freeze().await,
            Fault::RestartRole(role) => {
                let role = &mut self.roles[*role];
                role.close_reception();
                let code = role.process.stop(END_MAX).await?;
                ensure!(code == Some(0), "exit code {code:?} after SIGTERM");
                role.start().await
            }
            Fault::StepClock(role, seconds) => {
                self.roles[*role].clock.step(*seconds)?;
                self.until_stepped(*role, *seconds).await
            }
            Fault::CutRole(role, servers) => {
                servers.iter().for_each(|server| self.roles[*role].links[*server].cut());
                Ok(())
            }
            Fault::KillServer(server) => self.servers.kill(*server),
            Fault::StopServer(server) => self.servers.stop_process(*server),
            Fault::ReplaceServer(server) => self.servers.kill(*server),
            Fault::CutServers(pairs) => {
                pairs.iter().for_each(|(one, other)| self.wires.cut(*one, *other));
                Ok(())
            }
            Fault::FillDisk(server) => fill(&filler(&self.disks[*server])),
            Fault::PowerCut => self.cut_power(),
        }
    }

    /// Back to what it was; returns when it works. Says what had to be done beyond that.
    pub(super) async fn mend(&mut self, fault: &Fault) -> Result<Option<String>> {
        match fault {
            Fault::KillRole(role) => self.roles[*role].start().await?,
            Fault::StopRole(role) => self.roles[*role].process.thaw().await?,
            Fault::RestartRole(_) => {}
            Fault::StepClock(role, _) => {
                self.roles[*role].clock.step(0)?;
                self.until_stepped(*role, 0).await?;
            }
            Fault::CutRole(role, _) => self.roles[*role].links.iter().for_each(|link| link.heal()),
            Fault::KillServer(server) => self.servers.restart(*server)?,
            Fault::StopServer(server) => self.servers.resume(*server)?,
            Fault::ReplaceServer(server) => self.servers.replace(*server)?,
            Fault::CutServers(_) => self.wires.heal_all(),
            Fault::FillDisk(server) => fs::remove_file(filler(&self.disks[*server]))?,
            Fault::PowerCut => {}
        }
        if fault.hits_servers() { self.until_current().await } else { Ok(None) }
    }

    /// All servers end at once, and go on with what their disks had.
    fn cut_power(&mut self) -> Result<()> {
        let servers = 0..self.disks.len();
        servers.clone().try_for_each(|server| self.servers.kill(server))?;
        self.disks.iter().try_for_each(Disk::cut)?;
        self.disks.iter().try_for_each(Disk::restore)?;
        servers.clone().try_for_each(|server| self.servers.restart(server))
    }

    /// Waits until the servers are current, and does what their operator would do about one that
    /// does not get there by itself: it is started anew, then replaced by an empty one. Both happen
    /// to servers of NATS whose disk was full.
    async fn until_current(&mut self) -> Result<Option<String>> {
        if self.servers.until_caught_up(ALONE_MAX).await.is_ok() {
            return Ok(None);
        }
        let sick = self.sick_servers().await;
        if sick.is_empty() {
            self.servers.until_caught_up(CURRENT_MAX).await?;
            return Ok(None);
        }
        for server in &sick {
            self.servers.restart(*server)?;
        }
        let remedy = format!("servers {sick:?} started anew");
        if self.servers.until_caught_up(ALONE_MAX).await.is_ok() {
            return Ok(Some(remedy));
        }
        let sick = self.sick_servers().await;
        if let [alone] = sick[..] {
            self.servers.replace(alone)?;
        }
        self.servers.until_caught_up(CURRENT_MAX).await?;
        Ok(Some(format!("{remedy}, then {sick:?} replaced by an empty one")))
    }

    async fn sick_servers(&self) -> Vec<usize> {
        let mut sick = Vec::new();
        for server in 0..SERVERS {
            if !self.servers.server(server).monitor().is_healthy().await {
                sick.push(server);
            }
        }
        sick
    }

    /// Waits until what the process logs has times of the stepped clock. It may have nothing to say
    /// by itself while its servers come back; that its configuration was read again it says.
    async fn until_stepped(&self, role: usize, seconds: i64) -> Result<()> {
        let process = &self.roles[role].process;
        let what = format!("role {role} to see its clock stepped by {seconds} s");
        wait::until_every(LOGS_EVERY, &what, SEEN_MAX, async || {
            process.cli(&["reload"]).await.ok()?;
            let seen = super::logs::last_time(&process.dir().join("postrider.log")).ok()??;
            let true_time = runtime::clock::now().unix_ms();
            let off = seen - true_time - seconds * 1_000;
            (off.abs() < 2_500).then_some(())
        })
        .await
    }
}

/// Takes all the room of a disk.
fn filler(disk: &Disk) -> PathBuf {
    disk.mount_point().join("filler")
}

fn fill(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path).context("the filler of a disk")?;
    for size in [1 << 20, 4096] {
        let chunk = vec![0x55; size];
        while file.write_all(&chunk).is_ok() {}
    }
    Ok(())
}
