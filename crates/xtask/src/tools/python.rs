//! A Python environment with `flufl.bounce`, which judges our DSNs as mailing lists do.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cache, command};

const PACKAGES: [&str; 2] = ["flufl.bounce==6.0.0", "atpublic==9.0.0"];

pub(super) fn bring(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("python"), &PACKAGES.join("\n"), |root| {
        println!("making a Python environment with {}", PACKAGES[0]);
        command::run(Command::new("python3").args(["-m", "venv"]).arg(root)).context(
            "python3 with its module venv is needed: on Debian the packages python3, python3-venv",
        )?;
        let mut pip = Command::new(root.join("bin/python3"));
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-input"]).args(PACKAGES);
        command::run(&mut pip).context("the Python packages could not be had: is there a network?")
    })
}
