//! A server under measurement: started from an empty state, in a control group of its own, and
//! ended with everything that it has started.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::group::Group;
use super::{postfix, postrider};

pub(super) const SMTP_PORT: u16 = 2525;
pub(super) const SINK_PORT: u16 = 2600;

const START_MAX: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Product {
    Postfix,
    Postrider,
}

impl Product {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Postfix => "postfix",
            Self::Postrider => "postrider",
        }
    }

    /// Where the load goes, so that it is relayed to the sink.
    pub(super) const fn recipient_domain(self) -> &'static str {
        match self {
            Self::Postfix => "sink.test",
            Self::Postrider => "bench.test",
        }
    }
}

/// How a server is to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Setup {
    #[arg(long, value_enum)]
    pub(super) product: Product,
    /// Its state, on the disk that is measured.
    #[arg(long)]
    pub(super) state: PathBuf,
    /// The file that puts a process into the control group.
    #[arg(long)]
    procs: PathBuf,
    /// Accept and queue, but do not deliver.
    #[arg(long)]
    pub(super) hold: bool,
    /// Sessions that must be possible at once.
    #[arg(long, default_value_t = 0)]
    pub(super) idle: usize,
}

/// Joins the control group and becomes the server; in a mount namespace of its own.
pub(crate) fn serve(setup: &Setup) -> Result<()> {
    fs::write(&setup.procs, std::process::id().to_string())?;
    match setup.product {
        Product::Postfix => postfix::serve(setup),
        Product::Postrider => postrider::serve(setup),
    }
}

/// Running; dropped, it is ended.
pub(super) struct Server {
    product: Product,
    state: PathBuf,
    pub(super) group: Group,
    child: Child,
}

impl Server {
    pub(super) fn start(product: Product, dir: &Path, hold: bool, idle: usize) -> Result<Self> {
        let state = dir.join(product.name());
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        fs::create_dir_all(&state)?;
        Command::new("sync").status()?;
        let group = Group::new(product.name())?;
        let log = fs::File::create(state.join("output.log"))?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe()?);
        unshare.args(["bench-serve", "--product", product.name(), "--idle", &idle.to_string()]);
        unshare.arg("--state").arg(&state).arg("--procs").arg(group.procs());
        unshare.args(hold.then_some("--hold"));
        let output = (log.try_clone()?, log);
        unshare.stdin(Stdio::null()).stdout(output.0).stderr(output.1);
        let child = unshare.spawn().context("cannot run unshare")?;
        let mut server = Self { product, state, group, child };
        server.wait_for_greeting()?;
        Ok(server)
    }

    pub(super) fn address() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, SMTP_PORT).into()
    }

    pub(super) fn queued(&self) -> Result<u64> {
        match self.product {
            Product::Postfix => Ok(postfix::queued(&self.state)),
            Product::Postrider => postrider::queued(&self.state),
        }
    }

    pub(super) fn version(&self) -> Result<String> {
        match self.product {
            Product::Postfix => Ok(postfix::version(&self.state)),
            Product::Postrider => postrider::version(),
        }
    }

    pub(super) fn trace_path(&self) -> PathBuf {
        self.state.join("trace")
    }

    fn wait_for_greeting(&mut self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < START_MAX {
            if greets() {
                return Ok(());
            }
            if self.child.try_wait()?.is_some_and(|status| !status.success()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let output = fs::read_to_string(self.state.join("output.log")).unwrap_or_default();
        bail!("{} did not start: {}", self.product.name(), output.trim())
    }
}

fn greets() -> bool {
    let Ok(mut stream) = TcpStream::connect(Server::address()) else { return false };
    let mut greeting = [0; 3];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let greeted = stream.read_exact(&mut greeting).is_ok() && &greeting == b"220";
    let _ = stream.write_all(b"QUIT\r\n");
    let _ = stream.read_to_end(&mut Vec::new());
    greeted
}

impl Drop for Server {
    fn drop(&mut self) {
        self.group.end();
        let _ = self.child.wait();
    }
}
