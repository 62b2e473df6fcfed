//! Rules of the code that no other tool checks: which crate may know which, what pure crates must
//! not know, and how source files look.

mod layers;
mod logged;
mod sources;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::{self, Metadata, Package};

/// A broken rule and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// A file, a file and line, or a crate.
    place: String,
    rule: String,
}

impl Violation {
    fn new(place: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { place: place.into(), rule: rule.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.rule)
    }
}

/// Checks the whole workspace and prints every violation.
pub(crate) fn run() -> Result<()> {
    let violations = check(&workspace::root())?;
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => Ok(()),
        n => bail!("{n} rules are broken"),
    }
}

fn check(root: &Path) -> Result<Vec<Violation>> {
    let metadata = Metadata::read()?;
    let mut violations = layers::check(&metadata);
    for package in metadata.members() {
        violations.extend(check_package(package)?);
    }
    let mut files = Vec::new();
    for path in rust_files(root)? {
        let text = read(&path)?;
        files.push((path.strip_prefix(root).unwrap_or(&path).to_owned(), text));
    }
    let sources = || files.iter().map(|(name, text)| (name.as_path(), text.as_str()));
    violations.extend(sources().flat_map(|(name, text)| sources::check(name, text)));
    violations.extend(logged::check(sources(), &read(&root.join(logged::PAGE))?));
    Ok(violations)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A crate says in its first lines what it is for, and forbids unsafe code.
fn check_package(package: &Package) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    let manifest = fs::read_to_string(&package.manifest_path)?;
    if !forbids_unsafe(&manifest) {
        violations.push(Violation::new(
            &package.name,
            "its Cargo.toml needs `[lints] workspace = true` (or unsafe_code = \"forbid\")",
        ));
    }
    let roots = package.targets.iter().filter(|target| {
        target.kind.iter().any(|kind| matches!(kind.as_str(), "lib" | "bin" | "test"))
    });
    for target in roots {
        if !fs::read_to_string(&target.src_path)?.starts_with("//!") {
            let rule = format!("{} must begin with its `//!` documentation", target.name);
            violations.push(Violation::new(&package.name, rule));
        }
    }
    Ok(violations)
}

fn forbids_unsafe(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        match section {
            "[lints]" => line == "workspace = true",
            "[lints.rust]" => line == "unsafe_code = \"forbid\"",
            _ => false,
        }
    })
}

/// All `.rs` files of the checkout that are ours.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["crates", "operator", "tests"].iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        if !dir.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_forbidden_by_the_workspace_or_by_the_crate_itself() {
        assert!(forbids_unsafe("[package]\nname = \"x\"\n[lints]\nworkspace = true\n"));
        assert!(forbids_unsafe("[lints.rust]\nunsafe_code = \"forbid\"\n"));
        assert!(!forbids_unsafe("[lints.clippy]\nworkspace = true\n"));
        assert!(!forbids_unsafe("[dependencies]\nworkspace = true\n"));
        assert!(!forbids_unsafe("[lints.rust]\nunsafe_code = \"warn\"\n"));
    }
}
