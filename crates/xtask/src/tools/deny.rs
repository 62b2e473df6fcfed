//! cargo-deny, built from its crate.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{cache, command};

const VERSION: &str = "0.20.2";

pub(super) fn bring(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("cargo-deny"), VERSION, |root| {
        println!("building cargo-deny {VERSION}, once, for about 2 minutes");
        let mut cargo = command::cargo();
        cargo.args(["install", "--quiet", "--locked", "--version", VERSION, "--root"]).arg(root);
        command::run(cargo.arg("cargo-deny")).context("cargo-deny could not be built")
    })
}
