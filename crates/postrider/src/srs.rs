//! The keys by which forwarded mail finds its way back.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use domains::Srs;
use runtime::private_file::write_whole;
use serde::{Deserialize, Serialize};

use crate::config::{Config, refused};

/// `srs` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Keys {
    /// The first signs; what the others signed is read too. The same wherever mail is accepted, and
    /// where DSNs are made.
    pub(crate) key_files: Vec<PathBuf>,
}

impl Keys {
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.key_files.iter_mut()
    }

    /// `None` without files.
    pub(crate) fn load(&self) -> anyhow::Result<Option<Srs>> {
        let mut keys = self.key_files.iter().map(|path| read(path));
        let Some(first) = keys.next().transpose()? else { return Ok(None) };
        let old = keys.collect::<anyhow::Result<Vec<_>>>()?;
        let srs = Srs::new(&first, &old).map_err(|error| unusable(&error))?;
        Ok(Some(srs))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let octets = std::fs::read(path);
    let octets = octets.map_err(|error| unusable(&format!("{}: {error}", path.display())))?;
    Ok(octets.trim_ascii().to_vec())
}

fn unusable(problem: &dyn fmt::Display) -> anyhow::Error {
    refused("srs")(&format!("keyFiles: {problem}; make one with `openssl rand -hex 32`"))
}

/// What this process rewrites and reads with. One that shares its queue with no other makes a key
/// for itself at its first start.
pub(crate) fn open(config: &Config) -> anyhow::Result<Option<Arc<Srs>>> {
    let mut keys = config.srs.clone();
    if keys.key_files.is_empty() && config.jetstream.is_none() {
        let path = config.data_dir.join("srs.key");
        if !path.exists() {
            let key: String =
                rand::random::<[u8; 32]>().iter().map(|b| format!("{b:02x}")).collect();
            write_whole(&path, &key).with_context(|| format!("cannot write {}", path.display()))?;
        }
        keys.key_files.push(path);
    }
    if keys.key_files.is_empty() {
        tracing::warn!(
            event = "srs_off",
            "srs.keyFiles is not set: what aliases lead elsewhere keeps a sender whose SPF record \
             does not name us"
        );
    }
    Ok(keys.load()?.map(Arc::new))
}
