//! Programs of others, brought by `cargo xtask tools`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// A path below the directory of tools.
pub fn path(relative: &str) -> Result<PathBuf> {
    let given = std::env::var_os("POSTRIDER_TOOLS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/postrider"));
    let path = given.or(home).context("there is no home directory")?.join(relative);
    ensure!(path.exists(), "{} is missing: run `cargo xtask tools`", path.display());
    Ok(path)
}
