//! Where the cluster is: its files, names and addresses.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache;

/// Name of its network namespace and of its control groups.
pub(super) const NAME: &str = "postrider-cluster";
pub(super) const NODE: &str = "node";
pub(super) const NODE_ADDRESS: &str = "10.99.0.1";
pub(super) const PODS: &str = "10.244.0.0/24";
pub(super) const SERVICES: &str = "10.96.0.0/16";
/// The first of them is the API server's.
pub(super) const API_SERVICE: &str = "10.96.0.1";
/// As `bootstrap.yaml` has it.
pub(super) const DNS_SERVICE: &str = "10.96.0.10";

/// An image that was made here.
pub(super) fn image(name: &str) -> String {
    format!("registry.test/{name}:1")
}

pub(super) struct Place {
    /// The tools' cache.
    tools: PathBuf,
    pub(super) state: PathBuf,
}

impl Place {
    pub(super) fn new() -> Result<Self> {
        let tools = cache::dir()?;
        let state = tools.join("cluster");
        let socket = state.join("containerd.sock");
        ensure!(
            socket.as_os_str().len() <= 100,
            "{} is too long for a socket: set XDG_CACHE_HOME to a shorter path",
            socket.display()
        );
        for hidden in ["/run", "/var/lib", "/var/log"] {
            ensure!(
                !state.starts_with(hidden),
                "{} is covered inside the cluster: set XDG_CACHE_HOME to another path",
                state.display()
            );
        }
        Ok(Self { tools, state })
    }

    pub(super) fn make_directories(&self) -> Result<()> {
        for name in ["log", "identity", "etcd", "cni", "kubelet", "pods-log", "plugins", "volumes"]
        {
            fs::create_dir_all(self.state.join(name))?;
        }
        Ok(())
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.state.join("log")
    }

    /// Keys, certificates and kubeconfigs.
    pub(super) fn identity(&self, file: &str) -> PathBuf {
        self.state.join("identity").join(file)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.identity("admin.conf")
    }

    /// When it is there, the node's daemons are started.
    pub(super) fn go_file(&self) -> PathBuf {
        self.state.join("go")
    }

    /// When it is there, all of the cluster is.
    pub(super) fn up_file(&self) -> PathBuf {
        self.state.join("up")
    }

    /// Held while the cluster is started or ended.
    pub(super) fn lock(&self) -> Result<fs::File> {
        let path = self.tools.join("cluster.lock");
        let file = fs::File::create(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    pub(super) fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(NAME)
    }

    /// Kubernetes' own.
    pub(super) fn programs(&self) -> PathBuf {
        self.tools.join("kubernetes/bin")
    }

    /// Debian's packages, unpacked.
    pub(super) fn containers(&self) -> PathBuf {
        self.tools.join("containers")
    }

    /// Notes which process holds the cluster.
    pub(super) fn note_holder(&self, holder: u32) -> Result<()> {
        let began = began(holder).context("the process that holds the cluster has ended")?;
        let file = self.state.join("holder");
        fs::write(&file, format!("{holder} {began}"))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// The process that holds the cluster, if it is there. Numbers are given again: it is the one
    /// that began when it was noted.
    pub(super) fn holder(&self) -> Option<u32> {
        let noted = fs::read_to_string(self.state.join("holder")).ok()?;
        let (holder, noted) = noted.split_once(' ')?;
        let holder = holder.parse().ok()?;
        (began(holder)? == noted).then_some(holder)
    }

    /// The first process of its pid namespace, as the machine numbers it.
    pub(super) fn first_process(&self) -> Option<u32> {
        let holder = self.holder()?;
        let name = fs::read_to_string(format!("/proc/{holder}/comm")).ok()?;
        // Until it is `unshare` it has no child that stays.
        if name.trim() != "unshare" {
            return None;
        }
        let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    pub(super) fn is_up(&self) -> bool {
        self.holder().is_some() && self.up_file().exists()
    }

    /// The programs are found by name, and Debian's with their libraries.
    pub(super) fn set_environment(&self, command: &mut Command) {
        command.env("PATH", self.path());
        command.env("KUBECONFIG", self.kubeconfig());
        command.env("CONTAINERD_ADDRESS", self.socket()).env("CONTAINERD_NAMESPACE", "k8s.io");
        let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|triplet| self.containers().join("usr/lib").join(triplet));
        let [first, second] = &libraries;
        command.env("LD_LIBRARY_PATH", format!("{}:{}", first.display(), second.display()));
        let present = libraries.iter().map(|dir| dir.join("xtables")).find(|dir| dir.is_dir());
        command.envs(present.map(|dir| ("XTABLES_LIBDIR", dir)));
    }

    /// Kubernetes', then Debian's, then the machine's own.
    fn path(&self) -> OsString {
        let containers = self.containers();
        let debians = ["bin", "usr/sbin", "usr/bin"].map(|dir| containers.join(dir));
        let mut path = OsString::from(self.programs());
        for dir in debians {
            path.push(":");
            path.push(dir);
        }
        path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        path
    }

    /// Runs what is added to it in the cluster's network.
    pub(super) fn in_network(&self) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--net={}", self.network().display())).arg("--");
        let mut path = OsString::from(self.programs());
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        nsenter.env("PATH", path);
        nsenter.env("KUBECONFIG", self.kubeconfig());
        nsenter
    }

    pub(super) fn kubectl(&self) -> Command {
        let mut kubectl = self.in_network();
        kubectl.arg("kubectl");
        kubectl
    }

    pub(super) fn shell_lines(&self) -> String {
        let (config, programs) = (self.kubeconfig(), self.programs());
        format!("export KUBECONFIG={config:?} PATH={programs:?}:\"$PATH\"")
    }

    /// Forgets that it is there, and keeps its data and logs.
    pub(super) fn forget(&self) -> Result<()> {
        let gone = ["holder", "go", "up", "settings"].map(|name| self.state.join(name));
        for file in gone {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.state.display()))
            }
            _ => Ok(()),
        }
    }
}

/// When a process began, in ticks since the machine did: field 22 of its `stat`, whose second is
/// its name in parentheses. `None` when it has ended.
fn began(process: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let is_dead = fields.next()? == "Z";
    (!is_dead).then(|| fields.nth(18).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { tools: dir.path().to_owned(), state: dir.path().to_owned() };
        assert_eq!(place.holder(), None);
        let us = std::process::id();
        place.note_holder(us).unwrap();
        assert_eq!(place.holder(), Some(us));
        fs::write(dir.path().join("holder"), format!("{us} 1")).unwrap();
        assert_eq!(place.holder(), None, "another has the number now");
        assert!(began(u32::MAX).is_none());
    }
}
