//! The control groups of the cluster: the kubelet makes its pods' below them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::place::NAME;
use super::{LIMIT, LOOK};

const ROOT: &str = "/sys/fs/cgroup";
/// The daemons' own, beside the pods'.
const SYSTEM: &str = "system";

/// The groups that the first process is started in: one in each hierarchy of cgroup v1.
pub(super) struct Group(Vec<PathBuf>);

/// The machine's hierarchies; links are other names of one.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(ROOT).with_context(|| format!("there are no groups in {ROOT}"))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() && path.join("cgroup.procs").exists() {
            found.push(path);
        }
    }
    Ok(found)
}

impl Group {
    pub(super) fn make() -> Result<Self> {
        let mut groups = Vec::new();
        for hierarchy in hierarchies()? {
            let (ours, system) = (hierarchy.join(NAME), hierarchy.join(NAME).join(SYSTEM));
            fs::create_dir_all(&system)
                .with_context(|| format!("cannot make the group {}", system.display()))?;
            // Nothing runs in a group without processors.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if hierarchy.join(file).exists() {
                    let value = fs::read(hierarchy.join(file))?;
                    fs::write(ours.join(file), &value)?;
                    fs::write(system.join(file), &value)?;
                }
            }
            groups.push(system);
        }
        Ok(Self(groups))
    }

    /// Becomes the program whose name and arguments are added to it, once it has joined them.
    pub(super) fn enter(&self) -> Command {
        let mut shell = Command::new("sh");
        let join = "for group in $GROUPS_TO_JOIN; do \
                    echo $$ > \"$group/cgroup.procs\" || exit 1; \
                    done; exec \"$@\"";
        let groups: Vec<String> = self.0.iter().map(|it| it.display().to_string()).collect();
        shell.args(["-c", join, "sh"]).env("GROUPS_TO_JOIN", groups.join(" "));
        shell
    }
}

/// Removes the groups once their processes have ended.
pub(super) fn remove() -> Result<()> {
    let began = Instant::now();
    for hierarchy in hierarchies()? {
        let ours = hierarchy.join(NAME);
        while ours.exists() {
            let Err(error) = remove_below(&ours) else { break };
            let is_busy = error.kind() == ErrorKind::ResourceBusy;
            if !is_busy || began.elapsed() > LIMIT {
                let place = ours.display();
                return Err(error).with_context(|| {
                    format!("cannot remove {place}: is a cluster of another cache up?")
                });
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Groups are empty directories, whatever files they show.
fn remove_below(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
