//! nats-server, built from its Go module.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cache, command, machine};

const MODULE: &str = "github.com/nats-io/nats-server/v2";
/// At least 2.15.1: before it, `sync_interval: always` costs one sync per replicated message.
const VERSION: &str = "v2.15.2";

pub(super) fn bring(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("nats-server"), VERSION, |root| {
        println!("building nats-server {VERSION}, once, for about a minute");
        ensure!(
            machine::find("go").is_some(),
            "`go` is missing: nats-server is built from source with Go 1.26 or newer, unpacked \
             from https://go.dev/dl; or leave the part out by --without"
        );
        let build = root.join("build");
        let built = command::run(&mut go_install(root, &build)?)
            .context("nats-server could not be built: is there a network, is Go new enough?");
        fs::remove_dir_all(&build).with_context(|| format!("cannot empty {}", build.display()))?;
        built
    })
}

/// Everything that Go writes lies in `build`, which may be removed after it.
fn go_install(root: &Path, build: &Path) -> Result<Command> {
    fs::create_dir_all(build)?;
    let mut go = Command::new("go");
    go.current_dir(build)
        .args(["install", &format!("{MODULE}@{VERSION}")])
        .env("GOBIN", root.join("bin"))
        .env("GOPATH", build.join("path"))
        .env("GOMODCACHE", build.join("modules"))
        .env("GOCACHE", build.join("cache"))
        .env("GOTMPDIR", build)
        // Its counters lie beside its settings, of which the user's own still hold.
        .env("XDG_CONFIG_HOME", build.join("config"))
        .env("GOENV", settings()?)
        // Without it the modules are read-only and cannot be removed.
        .env("GOFLAGS", "-modcacherw")
        .env("GOWORK", "off")
        .env("CGO_ENABLED", "0");
    Ok(go)
}

/// Where the user's own settings of Go are; the file may be missing.
fn settings() -> Result<PathBuf> {
    if let Some(file) = env::var_os("GOENV").filter(|file| !file.is_empty()) {
        return Ok(file.into());
    }
    let config = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let config = config.or_else(|| Some(env::home_dir()?.join(".config")));
    Ok(config.context("no home directory for the settings of Go")?.join("go/env"))
}
