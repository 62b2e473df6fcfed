//! `cargo xtask cluster`: a real Kubernetes of one node, in namespaces of its own.
//!
//! ```text
//! up ─▶ unshare ─▶ tini ─▶ cluster-node ─▶ etcd, containerd, kube-apiserver, …
//!                  pid 1 of a pid namespace, in a network namespace without a way out
//! ```
//!
//! One process of the machine, `unshare`, holds every daemon, container and mount of it: they end
//! with it. `down` removes the rest: the network namespace, the control groups, and what the
//! kubelet has set in the kernel. The network namespace has no link to the machine's, so nothing in
//! the cluster reaches anything else; addresses of node, pods and services exist only inside.
//! `/run`, `/var/lib` and `/var/log` are private inside, so nothing of it meets what the machine
//! has there. Needs root.

mod daemons;
mod files;
mod group;
mod identity;
mod network;
mod node;
mod place;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use self::group::Group;
pub(crate) use self::node::run as run_node;
use self::place::Place;
use crate::machine::Need;
use crate::tools::{self, Tool};
use crate::{command, image, workspace};

/// What every step may take; all of them take some 10 seconds.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Starts the cluster, and waits until its node and its DNS are ready.
    Up,
    /// Ends every process of it and removes what it made.
    Down {
        /// Keep data and logs; the next `up` removes them.
        #[arg(long)]
        keep: bool,
    },
    /// Prints the lines by which a shell finds it.
    ///
    /// Its addresses are reachable from inside only: run programs by `cargo xtask cluster exec`.
    Env,
    /// Runs a program inside its network, with KUBECONFIG set.
    Exec {
        #[arg(required = true, trailing_var_arg = true)]
        program: Vec<String>,
    },
    /// Puts images into it, from OCI archives.
    LoadImage {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Tells what runs in it.
    Status,
}

pub(crate) fn run(command: &Cluster) -> Result<ExitCode> {
    let place = Place::new()?;
    match command {
        Cluster::Up => up(&place)?,
        Cluster::Down { keep } => {
            down(&place, *keep)?;
            println!("the cluster is down");
        }
        Cluster::Env => println!("{}", place.shell_lines()),
        Cluster::Exec { program } => return exec(&place, program),
        Cluster::LoadImage { archives } => {
            for archive in archives {
                load_image(&place, archive)?;
            }
        }
        Cluster::Status => {
            ensure!(place.is_up(), "the cluster is not up: cargo xtask cluster up");
            kubectl(&place, &["get", "nodes,pods", "--all-namespaces", "--output=wide"])?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the machine must have.
const NEEDS: [Need; 8] = [
    Need::Root,
    Need::Namespaces,
    Need::ControlGroupsV1,
    Need::BridgeFilter,
    Need::Program("ip", "iproute2"),
    Need::Program("nsenter", "util-linux"),
    Need::Program("sysctl", "procps"),
    Need::Program("kill", "procps"),
];

/// Brings it up with these images for `use_it`, which is given cargo inside its network, and takes
/// it down.
pub(crate) fn with<T>(images: &[PathBuf], use_it: impl FnOnce(Command) -> Result<T>) -> Result<T> {
    let place = Place::new()?;
    up(&place)?;
    let mut entered = place.in_network();
    entered.arg(command::cargo().get_program()).current_dir(workspace::root());
    let loaded = images.iter().try_for_each(|image| load_image(&place, image));
    let used = loaded.and_then(|()| use_it(entered));
    let ended = down(&place, false);
    used.and_then(|used| ended.map(|()| used))
}

fn up(place: &Place) -> Result<()> {
    let _lock = place.lock()?;
    if place.is_up() {
        println!("the cluster is up");
        return Ok(());
    }
    NEEDS.iter().try_for_each(|need| need.check())?;
    tools::bring(Tool::Kubernetes)?;
    // Of one that was ended in between.
    end(place)?;
    place.remove()?;
    let began = Instant::now();
    if let Err(error) = start(place).and_then(|()| settle(place)) {
        end(place)?;
        let logs = place.logs();
        return Err(error.context(format!("the cluster did not come up: see {}", logs.display())));
    }
    println!("the cluster is up after {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Starts the first process, and it the first daemons.
fn start(place: &Place) -> Result<()> {
    place.make_directories()?;
    network::save_settings(place)?;
    identity::write(place)?;
    files::write(place)?;
    network::add(place)?;
    let log = fs::File::create(place.logs().join("node"))?;
    let mut first = Group::make()?.enter();
    first
        .args(["setsid", "nsenter", &format!("--net={}", place.network().display()), "--"])
        .args(["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
        .arg(place.containers().join("usr/bin/tini"))
        .arg("--")
        .arg(std::env::current_exe()?)
        .arg("cluster-node")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut holder = first.spawn().context("cannot start the cluster")?;
    if let Err(error) = place.note_holder(holder.id()) {
        holder.kill()?;
        return Err(error);
    }
    until("the first process", || place.first_process())?;
    Ok(())
}

/// Waits for the API server, and then for all that the first pods need.
fn settle(place: &Place) -> Result<()> {
    let containers = || succeeds(inside(place, "ctr").args(["version"]));
    until("containerd", || containers().then_some(()))?;
    // They come before the kubelet: a pod that finds no image waits long before it looks again.
    for name in ["pause", "coredns"] {
        let (archive, path) = (place.state.join(format!("{name}.tar")), format!("/{name}"));
        let files = [image::File::program(&place.programs().join(name), &path)];
        image::Image::new(&place::image(name), &files, vec![path]).write(&archive)?;
        load_image(place, &archive)?;
    }
    until("the API server", || {
        succeeds(place.kubectl().args(["get", "--raw", "/readyz"])).then_some(())
    })?;
    fs::write(place.go_file(), "")?;
    let manifests = place.state.join("bootstrap.yaml");
    fs::write(&manifests, include_str!("cluster/bootstrap.yaml"))?;
    command::output(place.kubectl().arg("apply").arg("--filename").arg(&manifests))?;
    let ready = |args: &[&str]| {
        until("the node and its DNS", || succeeds(place.kubectl().args(args)).then_some(()))
    };
    ready(&["wait", "--for=condition=Ready", "node/node", "--timeout=5s"])?;
    ready(&["--namespace=kube-system", "rollout", "status", "deploy/coredns", "--timeout=5s"])?;
    Ok(fs::write(place.up_file(), "")?)
}

fn down(place: &Place, keep: bool) -> Result<()> {
    Need::Root.check()?;
    let _lock = place.lock()?;
    end(place)?;
    if keep { Ok(()) } else { place.remove() }
}

/// Ends all of it; data and logs stay.
fn end(place: &Place) -> Result<()> {
    if let Some(holder) = place.holder() {
        command::output(Command::new("kill").args(["-KILL", &holder.to_string()]))?;
        until("its processes to end", || place.holder().is_none().then_some(()))?;
    }
    group::remove()?;
    network::remove(place)?;
    network::restore_settings(place)?;
    place.forget()
}

fn exec(place: &Place, program: &[String]) -> Result<ExitCode> {
    ensure!(place.is_up(), "the cluster is not up: cargo xtask cluster up");
    let mut entered = place.in_network();
    // It becomes the program: signals and the exit code are the program's own.
    let error = entered.args(program).exec();
    bail!("cannot enter the cluster's network: {error}")
}

fn load_image(place: &Place, archive: &Path) -> Result<()> {
    ensure!(place.holder().is_some(), "the cluster is not up: cargo xtask cluster up");
    // Inside, some of the machine's directories are covered: the archive is handed in.
    let file = fs::File::open(archive)
        .with_context(|| format!("cannot read the archive {}", archive.display()))?;
    let mut ctr = inside(place, "ctr");
    let output = ctr.args(["images", "import", "-"]).stdin(file).output();
    let output = output.context("cannot run ctr")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} is not taken: {}", archive.display(), said.trim());
    Ok(())
}

fn kubectl(place: &Place, args: &[&str]) -> Result<()> {
    command::run(place.kubectl().args(args))
}

/// A program in all namespaces of the cluster.
fn inside(place: &Place, program: &str) -> Command {
    let mut nsenter = Command::new("nsenter");
    let first = place.first_process().unwrap_or_default();
    nsenter.args([&format!("--target={first}"), "--net", "--mount", "--pid", "--", program]);
    place.set_environment(&mut nsenter);
    nsenter
}

fn succeeds(command: &mut Command) -> bool {
    command::output(command).is_ok()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(began.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        std::thread::sleep(LOOK);
    }
}
