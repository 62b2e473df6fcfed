//! Whether the server syncs before it says `250`, seen from outside by strace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::group::Group;

const CALLS: &str = "trace=fsync,fdatasync,sync_file_range,msync,syncfs,write,writev,sendto,\
                     sendmsg,pwritev2";

/// strace on all members of a group, until it is read.
pub(super) struct Trace {
    strace: Child,
    path: PathBuf,
}

/// What the trace of a single session shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) syncs: u64,
    /// Replies `250` to a final dot.
    pub(super) accepted: u64,
    /// Those with a completed sync since the `354`.
    pub(super) synced_before: u64,
}

impl Trace {
    pub(super) fn start(group: &Group, path: PathBuf) -> Result<Self> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-s", "40", "-e", CALLS, "-o"]).arg(&path);
        for pid in group.pids() {
            strace.args(["-p", &pid.to_string()]);
        }
        let notes = fs::File::create(path.with_extension("notes"))?;
        let strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(notes).spawn();
        let trace = Self { strace: strace.context("cannot run strace")?, path };
        trace.wait_until_attached(group)?;
        Ok(trace)
    }

    fn wait_until_attached(&self, group: &Group) -> Result<()> {
        let started = Instant::now();
        let traced = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        while !group.pids().into_iter().all(traced) {
            ensure!(started.elapsed() < Duration::from_secs(10), "strace does not attach");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Detaches and reads what was seen.
    pub(super) fn read(mut self) -> Result<Audit> {
        Command::new("kill").args(["-INT", &self.strace.id().to_string()]).status()?;
        self.strace.wait()?;
        read(&self.path)
    }
}

fn read(path: &Path) -> Result<Audit> {
    let bytes = fs::read(path).with_context(|| format!("no trace in {}", path.display()))?;
    Ok(judge(&String::from_utf8_lossy(&bytes)))
}

fn judge(trace: &str) -> Audit {
    let mut audit = Audit::default();
    let (mut in_data, mut synced) = (false, false);
    for line in trace.lines() {
        // `PID call(arguments) = result`, or `PID <... call resumed>) = result`
        let Some((_, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let name = call.trim_start_matches("<... ").split(['(', ' ']).next().unwrap_or_default();
        if name.contains("sync") && line.trim_end().ends_with("= 0") {
            audit.syncs += 1;
            synced = true;
        } else if call.contains("\"354") {
            (in_data, synced) = (true, false);
        } else if call.contains("\"250") && in_data {
            in_data = false;
            audit.accepted += 1;
            audit.synced_before += u64::from(synced);
        }
    }
    audit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sync_that_has_ended_counts() {
        let trace = "7 write(9, \"250 ok\\r\\n\", 8) = 8\n\
                     7 write(9, \"354 go\\r\\n\", 8) = 8\n\
                     8 fdatasync(5 <unfinished ...>\n\
                     8 <... fdatasync resumed>) = 0\n\
                     7 sendto(9, \"250 2.0.0 ok\\r\\n\", 8, 0, NULL, 0) = 8\n\
                     7 write(9, \"354 go\\r\\n\", 8) = 8\n\
                     8 fdatasync(5 <unfinished ...>\n\
                     7 write(9, \"250 2.0.0 early\\r\\n\", 8) = 8\n\
                     8 <... fdatasync resumed>) = 0\n\
                     7 write(9, \"354 go\\r\\n\", 8) = 8\n\
                     8 fsync(5) = -1 EIO (Input/output error)\n\
                     7 write(9, \"250 2.0.0 lie\\r\\n\", 8) = 8\n";
        assert_eq!(judge(trace), Audit { syncs: 2, accepted: 3, synced_before: 1 });
    }
}
