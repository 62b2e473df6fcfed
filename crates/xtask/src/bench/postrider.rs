//! Postrider as it ships, relaying everything to the sink.
//!
//! No network address may relay through it, so the load goes to a hosted domain whose users are
//! aliases of addresses at the sink: the same path as any relayed mail, with nobody logged in.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::server::{SINK_PORT, SMTP_PORT, Setup};
use crate::{command, workspace};

/// Where nobody listens: a next hop that is down holds mail back.
const NOWHERE_PORT: u16 = 9;

/// Writes the configuration and becomes `postrider serve`.
pub(super) fn serve(setup: &Setup) -> Result<()> {
    let config = setup.state.join("etc");
    fs::create_dir_all(config.join("domains"))?;
    fs::write(config.join("postrider.yaml"), settings(setup))?;
    fs::write(config.join("domains/bench.yaml"), domain())?;
    let error = Command::new(binary()?).args(["serve", "--log", "json"]).arg(&config).exec();
    bail!("cannot start postrider: {error}")
}

pub(super) fn queued(state: &Path) -> Result<u64> {
    let mut list = Command::new(binary()?);
    list.args(["queue", "list", "--output", "json", "--config"]).arg(state.join("etc"));
    Ok(command::output(&mut list)?.lines().count() as u64)
}

pub(super) fn version() -> Result<String> {
    let version = command::output(Command::new(binary()?).arg("--version"))?;
    let commit = command::output(
        Command::new("git")
            .args(["describe", "--always", "--dirty"])
            .current_dir(workspace::root()),
    )?;
    Ok(format!("{} at {}", version.trim(), commit.trim()))
}

/// The copy beside the bench's own.
fn binary() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("postrider"))
}

fn settings(setup: &Setup) -> String {
    let port = if setup.hold { NOWHERE_PORT } else { SINK_PORT };
    format!(
        "hostname: mx.bench.test\n\
         dataDir: {}\n\
         ingress:\n  \
           listeners:\n  \
           - {{kind: relay, addresses: [\"127.0.0.1:{SMTP_PORT}\"]}}\n\
         delivery:\n  \
           allowPrivateAddresses: true\n  \
           routes:\n  \
           - {{domain: \"*\", host: \"127.0.0.1\", port: {port}}}\n\
         http:\n  \
           address: \"127.0.0.1:0\"\n",
        setup.state.join("data").display()
    )
}

/// `user0` to `user99` are at the sink.
fn domain() -> String {
    let mut yaml = "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
                    metadata: {name: bench}\nspec:\n  domain: bench.test\n  inbound:\n    \
                    aliases:\n    - {match: postmaster, to: [user0@sink.test]}\n"
        .to_owned();
    for user in 0..100 {
        yaml += &format!("    - {{match: user{user}, to: [user{user}@sink.test]}}\n");
    }
    yaml
}
