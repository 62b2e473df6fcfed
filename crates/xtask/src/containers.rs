//! `cargo xtask image`: the images that the chart runs, as archives that need no engine.
//!
//! `postrider.tar` has what the Containerfile puts into one: both programs, and the libraries that
//! they load. `nats.tar` has the tests' nats-server, for a cluster that can fetch nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::{File, Image};
use crate::tools::{self, Tool};
use crate::workspace::Metadata;
use crate::{command, workspace};

/// What the archives are called inside; the tests' values of the chart name them.
const POSTRIDER: &str = "registry.test/postrider:test";
const NATS: &str = "registry.test/nats:test";

/// Packages, and the program of each.
const PROGRAMS: [(&str, &str); 2] =
    [("postrider", "postrider"), ("operator", "postrider-operator")];

/// Builds the programs; gives the directory that they are in.
pub(crate) fn build() -> Result<PathBuf> {
    // Each by itself, as everywhere else: together they would be built with features of both.
    for (package, _) in PROGRAMS {
        let mut build = command::cargo();
        build.args(["build", "--locked", "--release", "--package", package]);
        command::run(&mut build)?;
    }
    Ok(Metadata::read()?.target_directory.join("release"))
}

/// Writes archives with these programs into a directory; gives their paths.
pub(crate) fn write(programs: &Path, directory: &Path) -> Result<[PathBuf; 2]> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut files = Vec::new();
    for (_, name) in PROGRAMS {
        let (program, stripped) = (programs.join(name), directory.join(name));
        // What only debuggers read is nine tenths of it.
        let mut strip = Command::new("strip");
        command::run(strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(&program))
            .context("strip is of the Debian package binutils")?;
        let libraries = libraries(&program)?;
        files.extend(libraries.iter().map(|path| File::program(Path::new(path), path)));
        files.push(File::program(&stripped, &format!("/usr/bin/{name}")));
    }
    files.sort_by(|one, other| one.path().cmp(other.path()));
    files.dedup_by(|one, other| one.path() == other.path());
    let postrider = directory.join("postrider.tar");
    let entry = vec!["/usr/bin/postrider".to_owned()];
    Image::new(POSTRIDER, &files, entry).write(&postrider)?;
    let server = tools::bring(Tool::Nats)?.dir.join("nats-server/bin/nats-server");
    let files = [File::program(&server, "/usr/bin/nats-server")];
    let nats = directory.join("nats.tar");
    Image::new(NATS, &files, vec!["/usr/bin/nats-server".to_owned()]).write(&nats)?;
    Ok([postrider, nats])
}

/// Where they are written.
pub(crate) fn directory() -> PathBuf {
    workspace::root().join("target/images")
}

/// The libraries that a program loads, and what loads them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let listed = command::output(Command::new("ldd").arg(program))?;
    Ok(listed.lines().filter_map(library).map(str::to_owned).collect())
}

/// The path in a line of `ldd`; the kernel's own library has none.
fn library(line: &str) -> Option<&str> {
    let (_, path) = line.trim().split_once("=> ").unwrap_or(("", line.trim()));
    let path = path.split_once(" (")?.0;
    path.starts_with('/').then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        for (line, path) in [
            ("\tlinux-vdso.so.1 (0x00007f)", None),
            ("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)", Some("/lib/x/libc.so.6")),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)", Some("/lib64/ld-linux-x86-64.so.2")),
            ("\tstatically linked", None),
        ] {
            assert_eq!(library(line), path, "{line}");
        }
    }
}
