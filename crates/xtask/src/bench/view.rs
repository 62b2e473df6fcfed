//! The private mount view in which a packaged server runs with its compiled-in paths: its packages
//! laid over `/usr` and `/etc`, its state on the real disk as `/var`, a `/dev` of its own, and
//! everything else read-only. Nothing is installed, and nothing that it writes reaches the machine.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::command;

/// Users that the packages' scripts would have made.
const USERS: [(&str, u32); 2] = [("postfix", 700), ("postdrop", 701)];

/// Changes the mounts of this process, which must be in a mount namespace of its own.
pub(super) fn enter(packages: &Path, state: &Path) -> Result<()> {
    let outside = format!("/proc/{}/ns/mnt", parent_id());
    let is_private = fs::read_link("/proc/self/ns/mnt")? != fs::read_link(outside)?;
    ensure!(is_private, "not in a mount namespace other than that of the parent");
    let (etc, var) = (state.join("etc"), state.join("var"));
    prepare_etc(&etc)?;
    for dir in ["spool", "lib", "log", "tmp", "mail"] {
        fs::create_dir_all(var.join(dir))?;
    }
    symlink("/run", var.join("run"))?;
    let lower = |first: &Path, second: &str| format!("lowerdir={}:{second}", first.display());
    mount(["-t", "overlay", "overlay", "-o", &lower(&packages.join("usr"), "/usr"), "/usr"])?;
    let packaged_etc = packages.join("etc");
    let etc_layers = lower(&etc, &format!("{}:/etc", packaged_etc.display()));
    mount(["-t", "overlay", "overlay", "-o", &etc_layers, "/etc"])?;
    mount(["-t", "tmpfs", "tmpfs", "/run"])?;
    fs::create_dir_all("/run/lock")?;
    mount([OsStr::new("--bind"), state.as_os_str(), state.as_os_str()])?;
    mount([OsStr::new("--bind"), var.as_os_str(), OsStr::new("/var")])?;
    make_dev()?;
    mount(["-o", "remount,bind,ro", "/"])?;
    ensure!(fs::write("/view-probe", "").is_err(), "/ is still writable");
    Ok(())
}

fn prepare_etc(etc: &Path) -> Result<()> {
    fs::create_dir_all(etc)?;
    let (mut passwd, mut group) =
        (fs::read_to_string("/etc/passwd")?, fs::read_to_string("/etc/group")?);
    for (name, id) in USERS {
        passwd += &format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n");
        group += &format!("{name}:x:{id}:\n");
    }
    fs::write(etc.join("passwd"), passwd)?;
    fs::write(etc.join("group"), group)?;
    fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
    Ok(fs::write(etc.join("hosts"), "127.0.0.1 localhost mx.bench.test mx\n")?)
}

fn make_dev() -> Result<()> {
    let dev = Path::new("/run/dev");
    fs::create_dir_all(dev)?;
    mount(["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run/dev"])?;
    for (name, major, minor) in [
        ("null", "1", "3"),
        ("zero", "1", "5"),
        ("full", "1", "7"),
        ("random", "1", "8"),
        ("urandom", "1", "9"),
        ("tty", "5", "0"),
    ] {
        let mut mknod = Command::new("mknod");
        command::output(mknod.args(["-m", "666"]).arg(dev.join(name)).args(["c", major, minor]))?;
    }
    symlink("/proc/self/fd", dev.join("fd"))?;
    for (name, target) in [("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, dev.join(name))?;
    }
    fs::create_dir(dev.join("shm"))?;
    mount(["--move", "/run/dev", "/dev"])
}

fn mount<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<()> {
    command::output(Command::new("mount").args(arguments)).map(drop)
}
