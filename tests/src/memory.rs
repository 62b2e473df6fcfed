//! What processes have in memory, and directories on disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait;

const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Octets that a process has in memory (`VmRSS`).
pub fn resident(pid: u32) -> Result<u64> {
    field(pid, "VmRSS:")
}

/// The most it has had since its start, or since [`forget_peak`] (`VmHWM`).
pub fn peak(pid: u32) -> Result<u64> {
    field(pid, "VmHWM:")
}

/// The peak begins anew at what the process has now.
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| path)
}

/// Waits until a process has less than this in memory: what was freed goes back to the system only
/// after a while.
pub async fn until_below(pid: u32, octets: u64) -> Result<u64> {
    until_below_while(pid, octets, async || Ok(())).await
}

/// The same while something is asked of the process before each look: a thread that allocates
/// nothing gives nothing back.
pub async fn until_below_while(
    pid: u32,
    octets: u64,
    ask: impl AsyncFn() -> Result<()>,
) -> Result<u64> {
    let settled = wait::until("less memory", SETTLE_MAX, async || {
        ask().await.ok()?;
        resident(pid).ok().filter(|resident| *resident < octets)
    });
    settled.await.with_context(|| {
        let resident = resident(pid).map_or(0, mib);
        format!("{resident} MiB, and less than {} MiB are foreseen", mib(octets))
    })
}

fn field(pid: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()).with_context(|| path)?;
    Ok(kib.parse::<u64>()? << 10)
}

/// Octets of the files below a directory. What vanishes meanwhile does not count.
pub fn on_disk(dir: &Path) -> Result<u64> {
    let mut octets = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let Ok(metadata) =
                entry.as_ref().map_err(drop).and_then(|e| e.metadata().map_err(drop))
            else {
                continue;
            };
            if metadata.is_dir() {
                todo.push(entry?.path());
            } else {
                octets += metadata.len();
            }
        }
    }
    Ok(octets)
}

/// In MiB, for reports.
pub fn mib(octets: u64) -> u64 {
    octets >> 20
}
