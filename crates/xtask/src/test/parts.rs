//! What the parts are, what each needs and what each does.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::cargo_test;
use super::context::Context;
use super::readme;
use super::summary::Outcome;
use crate::machine::Need;
use crate::tools::Tool;
use crate::{cluster, command, containers, tidy};

pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Of the machine; what can be built or unpacked the part brings itself.
    pub(super) needs: &'static [Need],
    pub(super) only_long: bool,
    pub(super) run: fn(&Context) -> Result<Outcome>,
}

/// Cheap ones first.
pub(super) const PARTS: [Part; 17] = [
    part("fmt", "every file is formatted", &[], fmt),
    part("tidy", "rules of the code that no other tool checks", &[], tidy),
    part("clippy", "no warning in any target", &[], clippy),
    part("deny", "licences, banned crates and sources of the dependencies", &[], deny),
    part("tests", "unit, property and conformance tests of every crate", &[], tests),
    part("fuzz", "the corpora of the fuzz targets, replayed", &[], fuzz),
    part("sim", "all roles under faults, slow clients, a recovered destination", &[], sim),
    part("interop", "Postfix, Exim, Dovecot, swaks, curl and Chromium", INTEROP_NEEDS, interop),
    part("crash", "kill -9 under load loses nothing", &[], crash),
    part("fault", "full disks and failing syncs lose nothing", &[], fault),
    part("powercut", "a power cut under load loses nothing", POWERCUT_NEEDS, powercut),
    part("cluster", "the queue on JetStream, and every role a process", &[], cluster),
    part("noloss", "a cluster under load and any fault loses nothing", POWERCUT_NEEDS, noloss),
    part("readme", "the README's first commands, in a clean checkout", README_NEEDS, readme),
    Part {
        only_long: true,
        ..part(
            "replicas",
            "on three servers: contract, backups, sabotage of the checkers",
            POWERCUT_NEEDS,
            replicas,
        )
    },
    Part {
        only_long: true,
        ..part("e2e", "on a real Kubernetes: one of its own, or KUBECONFIG's", &[], e2e)
    },
    Part {
        only_long: true,
        ..part("bench", "against Postfix, and on JetStream", BENCH_NEEDS, bench)
    },
];

const INTEROP_NEEDS: &[Need] =
    &[Need::Root, Need::Namespaces, Need::Program("curl", "curl"), Need::Program("perl", "perl")];
const POWERCUT_NEEDS: &[Need] =
    &[Need::Root, Need::LoopDevice, Need::Program("mkfs.ext4", "e2fsprogs")];
const README_NEEDS: &[Need] =
    &[Need::Root, Need::Namespaces, Need::Program("curl", "curl"), Need::Program("git", "git")];
const BENCH_NEEDS: &[Need] = &[
    Need::Root,
    Need::Namespaces,
    Need::Program("strace", "strace"),
    Need::Program("ip", "iproute2"),
];

const fn part(
    name: &'static str,
    about: &'static str,
    needs: &'static [Need],
    run: fn(&Context) -> Result<Outcome>,
) -> Part {
    Part { name, about, needs, only_long: false, run }
}

/// The test programs of the package `tests`, each a part of the same name: one program for many
/// files, because each would compile and link again what all of them share.
const PROGRAMS: [&str; 10] = [
    "fuzz", "sim", "interop", "crash", "fault", "powercut", "cluster", "noloss", "replicas", "e2e",
];

/// Fails when a test file belongs to no part, or to no program: it would never run.
pub(super) fn check_complete() -> Result<()> {
    let dir = crate::workspace::root().join("tests/tests");
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        ensure!(
            PROGRAMS.contains(&name),
            "{} is no part: move it into one of tests/tests/{PROGRAMS:?}",
            path.display()
        );
        if path.is_dir() {
            check_declared(&path)?;
        }
    }
    Ok(())
}

/// Each file of a program's directory is a module of it.
fn check_declared(dir: &Path) -> Result<()> {
    let main = dir.join("main.rs");
    let declared = fs::read_to_string(&main).with_context(|| format!("no {}", main.display()))?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let module = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let is_declared = declared.lines().any(|line| line == format!("mod {module};"));
        ensure!(
            module == "main" || is_declared,
            "{} never runs: write `mod {module};` into main.rs beside it",
            path.display()
        );
    }
    Ok(())
}

fn fmt(_: &Context) -> Result<Outcome> {
    command::run(command::cargo().args(["fmt", "--all", "--", "--check", "-l"]))
        .context("run `cargo fmt --all`")?;
    Ok(Outcome::ONE)
}

fn tidy(_: &Context) -> Result<Outcome> {
    tidy::run().map(|()| Outcome::ONE)
}

fn clippy(_: &Context) -> Result<Outcome> {
    let mut cargo = command::cargo();
    cargo.args(["clippy", "--locked", "--release", "--workspace", "--all-targets"]);
    command::run(cargo.args(["--", "-D", "warnings"]))?;
    Ok(Outcome::ONE)
}

fn deny(context: &Context) -> Result<Outcome> {
    let program = context.tool(Tool::Deny)?.join("cargo-deny/bin/cargo-deny");
    let mut deny = Command::new(program);
    deny.current_dir(crate::workspace::root());
    deny.args(["--workspace", "--locked", "check", "--hide-inclusion-graph"]);
    command::run(deny.args(["bans", "licenses", "sources"]))?;
    Ok(Outcome::ONE)
}

fn tests(_: &Context) -> Result<Outcome> {
    let crates = cargo_test::run(&[], &["--workspace", "--exclude", "tests"], &[])?;
    Ok(crates + cargo_test::run(&[], &["--package", "tests", "--lib"], &[])?)
}

fn fuzz(_: &Context) -> Result<Outcome> {
    program(&[], "fuzz", &[])
}

fn sim(context: &Context) -> Result<Outcome> {
    context.tool(Tool::Bounce)?;
    program(&context.environment()?, "sim", SHOWN)
}

fn interop(context: &Context) -> Result<Outcome> {
    let tools = [
        Tool::Postfix,
        Tool::Exim,
        Tool::Dovecot,
        Tool::Swaks,
        Tool::Bounce,
        Tool::Chromium,
        Tool::Nats,
    ];
    for tool in tools {
        context.tool(tool)?;
    }
    program(&context.environment()?, "interop", &["--test-threads", "1"])
}

/// Their figures are part of the result: shown as they come, one test at a time.
const SHOWN: &[&str] = &["--nocapture", "--test-threads", "1"];

fn crash(context: &Context) -> Result<Outcome> {
    program(&context.environment()?, "crash", SHOWN)
}

fn fault(context: &Context) -> Result<Outcome> {
    program(&context.environment()?, "fault", SHOWN)
}

fn powercut(context: &Context) -> Result<Outcome> {
    program(&context.environment()?, "powercut", SHOWN)
}

fn cluster(context: &Context) -> Result<Outcome> {
    for tool in [Tool::Nats, Tool::Bounce] {
        context.tool(tool)?;
    }
    program(&context.environment()?, "cluster", SHOWN)
}

fn noloss(context: &Context) -> Result<Outcome> {
    for tool in [Tool::Nats, Tool::Faketime] {
        context.tool(tool)?;
    }
    program(&context.environment()?, "noloss", SHOWN)
}

fn replicas(context: &Context) -> Result<Outcome> {
    for tool in [Tool::Nats, Tool::NatsCli, Tool::Faketime] {
        context.tool(tool)?;
    }
    program(&context.environment()?, "replicas", SHOWN)
}

/// A cluster of its own, unless there is one to be used, which must have the images already.
fn e2e(context: &Context) -> Result<Outcome> {
    context.tool(Tool::Kubernetes)?;
    let environment = context.environment()?;
    if std::env::var_os("KUBECONFIG").is_some() {
        return program(&environment, "e2e", SHOWN);
    }
    let images = containers::write(&containers::build()?, &containers::directory())?;
    cluster::with(&images, |entered| {
        cargo_test::run_by(entered, &environment, &program_of("e2e"), SHOWN)
    })
}

fn readme(context: &Context) -> Result<Outcome> {
    readme::run(context)
}

fn bench(_: &Context) -> Result<Outcome> {
    let against_postfix = command::run(command::cargo().args(["xtask", "bench", "--gate"]));
    // Both are run, whatever the first one gives.
    let on_jetstream = ["xtask", "bench", "--jetstream", "--gate"];
    command::run(command::cargo().args(on_jetstream)).and(against_postfix)?;
    Ok(Outcome::ONE + Outcome::ONE)
}

/// The test program of a part.
fn program(
    environment: &[(&str, OsString)],
    name: &str,
    test_arguments: &[&str],
) -> Result<Outcome> {
    cargo_test::run(environment, &program_of(name), test_arguments)
}

fn program_of(name: &str) -> [&str; 4] {
    ["--package", "tests", "--test", name]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_module_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("main.rs"), "mod known;\n").unwrap();
        fs::write(dir.path().join("known.rs"), "").unwrap();
        check_declared(dir.path()).unwrap();
        fs::write(dir.path().join("new.rs"), "").unwrap();
        let error = check_declared(dir.path()).unwrap_err().to_string();
        assert!(error.contains("new.rs never runs"), "{error}");
    }

    #[test]
    fn every_program_is_a_part() {
        for name in PROGRAMS {
            assert!(PARTS.iter().any(|part| part.name == name), "{name}");
        }
    }
}
