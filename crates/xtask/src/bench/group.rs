//! A control group of a server's processes: their CPU, the dead ones' too, and their memory.
//! Works on cgroup v1 (cpuacct) and v2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub(super) struct Group {
    dir: PathBuf,
}

impl Group {
    pub(super) fn new(name: &str) -> Result<Self> {
        let v1 = Path::new("/sys/fs/cgroup/cpuacct");
        let base = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let dir = base.join(format!("postrider-bench-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir)
            .with_context(|| format!("cannot make the control group {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The file into which a process writes its id to join.
    pub(super) fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Takes a process that has just been started in.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.procs(), pid.to_string()).context("a process cannot join its control group")
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.procs()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Seconds, user and system, of all members so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        if let Ok(nanoseconds) = fs::read_to_string(self.dir.join("cpuacct.usage")) {
            return Ok(nanoseconds.trim().parse::<f64>()? / 1e9);
        }
        let stat = fs::read_to_string(self.dir.join("cpu.stat"))?;
        let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(used.context("no usage_usec in cpu.stat")?.parse::<f64>()? / 1e6)
    }

    /// KiB; pages that are shared are split fairly between those who share them.
    pub(super) fn pss_kib(&self) -> f64 {
        let pss = |pid: u32| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        self.pids().into_iter().filter_map(pss).sum()
    }

    /// Ends the members: only ours are in here.
    pub(super) fn end(&self) {
        for (signal, limit) in [("-TERM", 10), ("-KILL", 5)] {
            let started = Instant::now();
            let mut told = Vec::new();
            while started.elapsed() < Duration::from_secs(limit) {
                let pids = self.pids();
                if pids.is_empty() {
                    return;
                }
                for pid in pids.into_iter().filter(|pid| !told.contains(pid)).collect::<Vec<_>>() {
                    let _ = Command::new("kill").args([signal, &pid.to_string()]).output();
                    told.push(pid);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir(&self.dir);
    }
}
