//! A simulated power cut: what was not synced is gone.
//!
//! The data lie on an ext4 image that is mounted with a long commit interval. A cut copies the
//! image as it is at that moment: dirty pages that were never written back are not in the copy.
//! Whether what was written earlier survives what was written later, without a sync between, is
//! up to the file system's [`Order`].
//! Needs root and a loop device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// In which order writes that nobody synced come to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any: content after the removal of a file that was removed after it, as ext4 does by default.
    Any,
    /// As they were made: ext4 with `data=journal`.
    Kept,
}

impl Order {
    fn mount_options(self) -> &'static str {
        match self {
            Self::Any => "loop,commit=300,noatime",
            Self::Kept => "loop,commit=300,noatime,data=journal",
        }
    }
}

/// A mounted image; dropped, it is unmounted.
pub struct Disk {
    dir: PathBuf,
    order: Order,
}

impl Disk {
    /// An empty file system of `size_mib` below `dir`.
    pub fn prepare(dir: &Path, size_mib: u64, order: Order) -> Result<Self> {
        fs::create_dir_all(dir.join("mnt"))?;
        fs::File::create(dir.join("img"))?.set_len(size_mib << 20)?;
        let disk = Self { dir: dir.to_owned(), order };
        run("mkfs.ext4", &["-q", "-F", &disk.path("img")])?;
        disk.mount()
            .context("power cuts need root and a loop device; without them: --without powercut")?;
        Ok(disk)
    }

    /// Where the file system is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// What the disk holds now; call it right after the process was killed.
    pub fn cut(&self) -> Result<()> {
        run("cp", &["--sparse=always", &self.path("img"), &self.path("cut")])
    }

    /// Goes on with what [`Self::cut`] found, as a machine does after the power came back.
    pub fn restore(&self) -> Result<()> {
        run("umount", &[&self.path("mnt")])?;
        fs::rename(self.dir.join("cut"), self.dir.join("img"))?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let options = self.order.mount_options();
        run("mount", &["-o", options, &self.path("img"), &self.path("mnt")])
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, for a failed test may still have the process running on it.
        let _ = run("umount", &["-l", &self.path("mnt")]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {stderr}");
    Ok(())
}
