//! What keeps the daemons running. Runs inside all namespaces of the cluster, below `tini`, which
//! buries the orphans.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::daemons::{self, Daemon};
use super::place::Place;
use crate::command;

/// Before a daemon that has ended is started again.
const PAUSE: Duration = Duration::from_millis(300);

/// Never returns: it is ended with the cluster.
pub(crate) fn run() -> Result<()> {
    let place = Place::new()?;
    ensure_inside(&place)?;
    separate()?;
    for daemon in daemons::first(&place) {
        keep(&place, daemon)?;
    }
    while !place.go_file().exists() {
        thread::sleep(super::LOOK);
    }
    for daemon in daemons::second(&place) {
        keep(&place, daemon)?;
    }
    loop {
        thread::park();
    }
}

/// Elsewhere it would cover directories of the machine.
fn ensure_inside(place: &Place) -> Result<()> {
    let (here, ours) = (fs::metadata("/proc/self/ns/net")?, fs::metadata(place.network()));
    let is_inside = ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (here.dev(), here.ino()));
    // `tini` is the first process of the namespaces that were made for it.
    let is_below_first = parent_id() == 1;
    ensure!(is_inside && is_below_first, "this is run by `cargo xtask cluster up` alone");
    Ok(())
}

/// Mounts of the cluster are its own, and what containerd, CNI and the kubelet write by default is
/// not the machine's.
fn separate() -> Result<()> {
    let mount = |args: &[&str]| command::output(Command::new("mount").args(args)).map(drop);
    mount(&["--make-rprivate", "/"])?;
    // Inside they are shared: containers see what the kubelet mounts for them.
    mount(&["--make-rshared", "/"])?;
    for covered in ["/run", "/var/lib", "/var/log"] {
        mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", covered])?;
    }
    Ok(())
}

/// Starts a daemon, and again whenever it ends; each has a log of its own.
fn keep(place: &Place, daemon: Daemon) -> Result<()> {
    let path = place.logs().join(daemon.name);
    let log = fs::OpenOptions::new().create(true).append(true).open(&path)?;
    let mut command = Command::new(daemon.name);
    place.set_environment(&mut command);
    command.args(&daemon.arguments).current_dir("/");
    thread::Builder::new()
        .name(daemon.name.to_owned())
        .spawn(move || {
            loop {
                let ended = once(&mut command, &log);
                let mut log = &log;
                let _ = writeln!(log, "{}: {ended:?}", daemon.name);
                thread::sleep(PAUSE);
            }
        })
        .with_context(|| format!("cannot keep {}", daemon.name))?;
    Ok(())
}

fn once(command: &mut Command, log: &File) -> Result<()> {
    let status = command.stdout(log.try_clone()?).stderr(log.try_clone()?).status()?;
    bail!("ended: {status}")
}
