//! One nats-server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use super::{Monitor, START_MAX, Settings};
use crate::{ports, tools, wait};

/// The process and its directory; dropped, the process is killed.
pub struct Server {
    name: String,
    dir: PathBuf,
    store: PathBuf,
    client_port: u16,
    monitor: Monitor,
    running: Option<Child>,
    is_stopped: bool,
    /// Removed after the process is gone.
    _own_dir: Option<TempDir>,
}

impl Server {
    /// Starts one that is alone, in a temporary directory, and waits until it is ready.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut server = Self::start_in(dir.path(), &Settings::default()).await?;
        server._own_dir = Some(dir);
        Ok(server)
    }

    /// Starts one that is alone, in `dir`, and waits until it is ready.
    pub async fn start_in(dir: &Path, settings: &Settings) -> Result<Self> {
        let mut server = Self::new("n0", dir, &dir.join("store"), settings, "")?;
        server.launch()?;
        server.until_ready(START_MAX).await?;
        Ok(server)
    }

    /// Writes its configuration, with `routes` as the block of its cluster.
    pub(super) fn new(
        name: &str,
        dir: &Path,
        store: &Path,
        settings: &Settings,
        routes: &str,
    ) -> Result<Self> {
        let ports = ports::free(2)?;
        let (client_port, monitor_port) = (ports[0], ports[1]);
        let server = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            store: store.to_owned(),
            client_port,
            monitor: Monitor::new(monitor_port),
            running: None,
            is_stopped: false,
            _own_dir: None,
        };
        let config = format!(
            "server_name: {name}\n\
             listen: \"127.0.0.1:{client_port}\"\n\
             http: \"127.0.0.1:{monitor_port}\"\n\
             max_payload: 1MB\n\
             max_pending: 128MB\n\
             write_deadline: \"10s\"\n\
             jetstream {{\n  store_dir: {:?}\n  max_file_store: {}\n  max_memory_store: 64MB\n  \
             sync_interval: {}\n}}\n{routes}{}\n",
            server.store_dir(),
            settings.file_store_bytes_max,
            settings.sync_interval,
            settings.more,
        );
        fs::create_dir_all(dir)?;
        fs::write(server.config_path(), config)?;
        Ok(server)
    }

    /// `server_name`, by which the monitoring pages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client_port)
    }

    pub fn monitor(&self) -> Monitor {
        self.monitor
    }

    pub fn monitor_url(&self) -> String {
        self.monitor.url()
    }

    pub fn store_dir(&self) -> &Path {
        &self.store
    }

    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Child::id)
    }

    /// Whether the process runs and is not stopped.
    pub fn is_up(&self) -> bool {
        self.running.is_some() && !self.is_stopped
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.running.take().context("not running")?;
        self.is_stopped = false;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    pub fn stop_process(&mut self) -> Result<()> {
        self.signal("-STOP")?;
        self.is_stopped = true;
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        self.signal("-CONT")?;
        self.is_stopped = false;
        Ok(())
    }

    /// Kills it if it runs, starts it on the same ports and store, and waits until it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.relaunch()?;
        self.until_ready(START_MAX).await
    }

    /// Waits until JetStream is ready; fails with the end of the log.
    pub async fn until_ready(&mut self, limit: Duration) -> Result<()> {
        let what = format!("{} to be ready", self.name);
        let waited = wait::until(&what, limit, async || match self.check_running() {
            Ok(()) => self.monitor.is_healthy().await.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        });
        let result = waited.await.flatten();
        result.with_context(|| self.log_tail())
    }

    /// All that it has logged since the first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its name, where its log is, and the last lines of it.
    pub(super) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("the log of {} ({}) ends:\n{tail}", self.name, self.log_path().display())
    }

    /// [`Server::restart`] without the wait: a cluster may lack its majority.
    pub(super) fn relaunch(&mut self) -> Result<()> {
        if self.running.is_some() {
            self.kill()?;
        }
        self.launch()
    }

    pub(super) fn launch(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "{} is running", self.name);
        let program = tools::path("nats-server/bin/nats-server")?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(program);
        command.arg("--config").arg(self.config_path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.running = Some(command.spawn().context("cannot start nats-server")?);
        Ok(())
    }

    /// Fails when the process has ended by itself.
    pub(super) fn check_running(&mut self) -> Result<()> {
        let child = self.running.as_mut().with_context(|| format!("{} is down", self.name))?;
        match child.try_wait()? {
            Some(status) => Err(anyhow!("{} ended by itself ({status})", self.name)),
            None => Ok(()),
        }
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid().context("not running")?.to_string();
        let status = Command::new("kill").args([signal, &pid]).status()?;
        ensure!(status.success(), "`kill {signal} {pid}` failed ({status})");
        Ok(())
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("nats.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("nats.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if self.running.is_some() {
            let _ = self.kill();
        }
    }
}
