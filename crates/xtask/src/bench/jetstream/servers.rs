//! The NATS servers under measurement, in a control group of their own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::group::Group;
use crate::command;
use crate::tools::{self, Tool};

const START_MAX: Duration = Duration::from_secs(45);

/// The first server's ports; the others' follow.
const CLIENT_PORT: u16 = 4222;
const ROUTE_PORT: u16 = 6222;
const MONITOR_PORT: u16 = 8222;

/// Running from an empty store; dropped, they are ended.
pub(super) struct Servers {
    replicas: u16,
    pub(super) group: Group,
    children: Vec<Child>,
}

impl Servers {
    pub(super) fn start(dir: &Path, replicas: u16) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        let group = Group::new("nats")?;
        let mut servers = Self { replicas, group, children: Vec::new() };
        for number in 0..replicas {
            let home = dir.join(format!("n{number}"));
            fs::create_dir_all(&home)?;
            let config = home.join("nats.conf");
            fs::write(&config, settings(&home, number, replicas))?;
            let mut server = Command::new(program()?);
            server.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
            let server = server.stderr(fs::File::create(home.join("server.log"))?).spawn();
            let server = server.context("cannot run nats-server")?;
            servers.group.add(server.id())?;
            servers.children.push(server);
        }
        servers.wait_until_healthy(dir)?;
        Ok(servers)
    }

    pub(super) const fn replicas(&self) -> u16 {
        self.replicas
    }

    /// For clients.
    pub(super) fn urls(&self) -> Vec<String> {
        let url = |number| format!("nats://127.0.0.1:{}", CLIENT_PORT + number);
        (0..self.replicas).map(url).collect()
    }

    pub(super) fn monitor_urls(&self) -> Vec<String> {
        let url = |number| format!("http://127.0.0.1:{}", MONITOR_PORT + number);
        (0..self.replicas).map(url).collect()
    }

    fn wait_until_healthy(&self, dir: &Path) -> Result<()> {
        let started = Instant::now();
        while !(0..self.replicas).all(is_healthy) {
            let waited = started.elapsed();
            ensure!(waited < START_MAX, "nats-server did not start: see {}", dir.display());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.group.end();
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

pub(super) fn version() -> Result<String> {
    Ok(command::output(Command::new(program()?).arg("--version"))?.trim().to_owned())
}

fn program() -> Result<PathBuf> {
    Ok(tools::bring(Tool::Nats)?.dir.join("nats-server/bin/nats-server"))
}

/// As our documentation asks for it: a sync before every acknowledgement.
fn settings(home: &Path, number: u16, replicas: u16) -> String {
    let routes = match replicas {
        1 => String::new(),
        _ => {
            let others = (0..replicas).filter(|other| *other != number);
            let others = others.map(|other| format!("nats://127.0.0.1:{}", ROUTE_PORT + other));
            format!(
                "cluster {{\n  name: bench\n  listen: \"127.0.0.1:{}\"\n  routes: {:?}\n}}\n",
                ROUTE_PORT + number,
                others.collect::<Vec<_>>()
            )
        }
    };
    format!(
        "server_name: n{number}\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n\
         jetstream {{\n  store_dir: {:?}\n  max_file_store: 32GB\n  sync_interval: always\n}}\n\
         {routes}",
        CLIENT_PORT + number,
        MONITOR_PORT + number,
        home.join("store"),
    )
}

/// Whether a server knows the others, and all that it keeps is current.
fn is_healthy(number: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, MONITOR_PORT + number));
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut answer = Vec::new();
    let asked = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n");
    asked.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.0 200")
}
