//! What a part needs of the machine, and how to get it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Something that only the machine can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Root,
    /// Private mount and network namespaces.
    Namespaces,
    LoopDevice,
    /// Control groups of version 1.
    ControlGroupsV1,
    /// Packets that cross a bridge are filtered.
    BridgeFilter,
    /// A program, and the Debian package that has it.
    Program(&'static str, &'static str),
}

impl Need {
    /// Fails with what is missing and how to get it.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Root => {
                let owner = std::fs::metadata("/proc/self").context("no /proc")?.uid();
                ensure!(owner == 0, "root is needed: run it as root, in a container or with sudo");
            }
            Self::Namespaces => ensure!(
                succeeds("unshare", &["-mn", "--propagation", "private", "true"]),
                "private mount and network namespaces are refused here: they need CAP_SYS_ADMIN \
                 (in a container: --privileged)"
            ),
            Self::LoopDevice => ensure!(
                succeeds("losetup", &["-f"]),
                "no loop device can be had: `modprobe loop`, or in a container --privileged"
            ),
            Self::ControlGroupsV1 => ensure!(
                Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists(),
                "control groups of version 1 are needed, and this machine has version 2 alone: \
                 start it with systemd.unified_cgroup_hierarchy=0"
            ),
            Self::BridgeFilter => ensure!(
                Path::new("/proc/sys/net/bridge").exists(),
                "packets that cross a bridge are not filtered here: `modprobe br_netfilter`"
            ),
            Self::Program(name, package) => ensure!(
                find(name).is_some(),
                "`{name}` is missing: on Debian it is in the package {package}"
            ),
        }
        Ok(())
    }
}

/// Where a program is on the PATH, or in the directories of system programs.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let Some(program) = find(program) else { return false };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = Need::Program("no-such-program", "no-such-package").check().unwrap_err();
        assert!(error.to_string().contains("in the package no-such-package"), "{error}");
        Need::Program("sh", "dash").check().unwrap();
    }
}
