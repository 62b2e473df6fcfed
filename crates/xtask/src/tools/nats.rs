//! nats-server and its command line `nats`, built from their Go modules.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cache, command, machine};

/// A program and the module that it is built from.
struct Program {
    name: &'static str,
    module: &'static str,
    version: &'static str,
}

const SERVER: Program = Program {
    name: "nats-server",
    module: "github.com/nats-io/nats-server/v2",
    // At least 2.15.1: before it, `sync_interval: always` costs one sync per replicated message.
    version: "v2.15.2",
};

/// Backs streams up and restores them.
const CLI: Program =
    Program { name: "nats", module: "github.com/nats-io/natscli/nats", version: "v0.5.1" };

pub(super) fn bring_server(dir: &Path) -> Result<bool> {
    bring(&dir.join("nats-server"), &SERVER)
}

pub(super) fn bring_cli(dir: &Path) -> Result<bool> {
    bring(&dir.join("nats-cli"), &CLI)
}

fn bring(dir: &Path, program: &Program) -> Result<bool> {
    let Program { name, version, .. } = program;
    cache::ensure(dir, version, |root| {
        println!("building {name} {version}, once, for about a minute");
        ensure!(
            machine::find("go").is_some(),
            "`go` is missing: {name} is built from source with Go 1.26 or newer, unpacked \
             from https://go.dev/dl; or leave the part out by --without"
        );
        let build = root.join("build");
        let built = command::run(&mut go_install(program, root, &build)?).with_context(|| {
            format!("{name} could not be built: is there a network, is Go new enough?")
        });
        fs::remove_dir_all(&build).with_context(|| format!("cannot empty {}", build.display()))?;
        built
    })
}

fn go_install(program: &Program, root: &Path, build: &Path) -> Result<Command> {
    fs::create_dir_all(build)?;
    let mut go = Command::new("go");
    settle(&mut go, build)?;
    go.current_dir(build)
        .args(["install", &format!("{}@{}", program.module, program.version)])
        .env("GOBIN", root.join("bin"));
    Ok(go)
}

/// Everything that Go writes lies in `build`, which may be removed after it.
pub(super) fn settle(go: &mut Command, build: &Path) -> Result<()> {
    go.env("GOPATH", build.join("path"))
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
    Ok(())
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
