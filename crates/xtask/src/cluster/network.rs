//! The cluster's network, which leads nowhere, and settings of the kernel that its daemons change.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::place::{NAME, NODE_ADDRESS, Place};
use crate::command;

/// The kubelet sets them for the whole machine.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// A bridge without members carries the node's address: not every kernel has a dummy device.
/// Without a default route the look-up of a route to a service ends before its address is
/// translated.
pub(super) fn add(place: &Place) -> Result<()> {
    command::output(Command::new("ip").args(["netns", "add", NAME]))?;
    let address = format!("{NODE_ADDRESS}/24");
    for args in [
        &["ip", "link", "set", "lo", "up"][..],
        &["ip", "link", "add", "node0", "type", "bridge"],
        &["ip", "addr", "add", &address, "dev", "node0"],
        &["ip", "link", "set", "node0", "up"],
        &["ip", "route", "add", "default", "dev", "node0"],
        &["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"],
    ] {
        command::output(place.in_network().args(args))?;
    }
    Ok(())
}

pub(super) fn remove(place: &Place) -> Result<()> {
    if place.network().exists() {
        command::output(Command::new("ip").args(["netns", "delete", NAME]))?;
    }
    Ok(())
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Notes what the machine has.
pub(super) fn save_settings(place: &Place) -> Result<()> {
    let mut saved = String::new();
    for name in SETTINGS {
        let value = fs::read_to_string(setting(name));
        let value = value.with_context(|| format!("no setting {name}"))?;
        saved += &format!("{name} {}\n", value.trim());
    }
    Ok(fs::write(place.state.join("settings"), saved)?)
}

/// Puts back what was noted, once.
pub(super) fn restore_settings(place: &Place) -> Result<()> {
    let noted = place.state.join("settings");
    let saved = match fs::read_to_string(&noted) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        saved => saved.with_context(|| format!("cannot read {}", noted.display()))?,
    };
    for (name, value) in saved.lines().filter_map(|line| line.split_once(' ')) {
        let now =
            fs::read_to_string(setting(name)).with_context(|| format!("no setting {name}"))?;
        if now.trim() != value {
            fs::write(setting(name), value).with_context(|| format!("cannot set {name}"))?;
        }
    }
    Ok(fs::remove_file(noted)?)
}
