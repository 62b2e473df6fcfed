//! What parts share: the tools and the binary, each brought once.

use std::cell::{Cell, OnceCell};
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};

use crate::tools::{self, Tool};
use crate::workspace::Metadata;
use crate::{cache, command};

pub(crate) struct Context {
    pub(super) long: bool,
    pub(super) target_directory: PathBuf,
    binary: OnceCell<Result<PathBuf, String>>,
    cold: Cell<bool>,
}

impl Context {
    pub(super) fn new(long: bool, metadata: &Metadata) -> Self {
        let target_directory = metadata.target_directory.clone();
        let cold = !target_directory.join("release/postrider").exists();
        Self { long, target_directory, binary: OnceCell::new(), cold: Cell::new(cold) }
    }

    /// Whether this run had to build the dependencies or bring a tool.
    pub(super) fn is_cold(&self) -> bool {
        self.cold.get()
    }

    /// Brings a tool; gives the directory of all tools.
    pub(super) fn tool(&self, tool: Tool) -> Result<PathBuf> {
        let brought = tools::bring(tool)?;
        self.cold.set(self.cold.get() || brought.now);
        Ok(brought.dir)
    }

    /// `postrider` as the checkout is now, built once.
    pub(super) fn binary(&self) -> Result<PathBuf> {
        let built = self.binary.get_or_init(|| {
            let mut cargo = command::cargo();
            cargo.args(["build", "--locked", "--release", "--package", "postrider"]);
            command::run(&mut cargo).map_err(|error| format!("{error:#}"))?;
            Ok(self.target_directory.join("release/postrider"))
        });
        built.clone().map_err(|error| anyhow!(error)).context("postrider could not be built")
    }

    /// How the test files find what they test and test with.
    pub(super) fn environment(&self) -> Result<Vec<(&'static str, OsString)>> {
        let mut environment = vec![
            ("POSTRIDER_BIN", self.binary()?.into_os_string()),
            ("POSTRIDER_TOOLS", cache::dir()?.into_os_string()),
        ];
        if self.long {
            environment.push(("POSTRIDER_LONG", "1".into()));
        }
        Ok(environment)
    }
}
