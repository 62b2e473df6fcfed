//! Keys of the domain table's secrets, made by the command line.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use domains_kv::Sealer;
use tokio::process::Command;

use crate::process::binary;

/// A directory with a pair for each class.
#[derive(Clone)]
pub struct Keys {
    dir: PathBuf,
}

impl Keys {
    /// Makes them in `dir`.
    pub async fn make(dir: &Path) -> Result<Self> {
        let output = Command::new(binary()?).args(["domain", "keys"]).arg(dir).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The part of `postrider.yaml` of whoever applies domains.
    pub fn of_writer(&self) -> String {
        let (public, compare) = (self.file("passwords.pub"), self.file("compare.key"));
        format!("secrets: {{publicKeys: [{public:?}], compareKey: {compare:?}}}\n")
    }

    /// The part of `postrider.yaml` of a role that has these files.
    pub fn of_role(files: &[PathBuf]) -> String {
        format!("secrets: {{privateKeys: {files:?}}}\n")
    }

    pub fn sealer(&self) -> Result<Sealer> {
        Ok(Sealer::load(&[self.file("passwords.pub")], Some(&self.file("compare.key")))?)
    }
}
