//! The directory outside of the checkout where tools are kept from run to run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `$XDG_CACHE_HOME/postrider`, or `~/.cache/postrider`; made when it is missing.
pub(crate) fn dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let base = match base {
        Some(base) => base,
        None => std::env::home_dir().context("no home directory for the cache")?.join(".cache"),
    };
    let dir = base.join("postrider");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Makes `dir` by `make` unless it was completely made from the same `pins` before; tells whether
/// it had to.
///
/// The pins are written into a stamp last, so that half-made directories are made again.
pub(crate) fn ensure(
    dir: &Path,
    pins: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<bool> {
    let stamp = dir.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == pins) {
        return Ok(false);
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir)?;
    make(dir)?;
    fs::write(&stamp, pins).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_for_the_same_pins_and_again_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("tool");
        let mut made = 0;
        for pins in ["a 1", "a 1", "a 2", "a 2"] {
            ensure(&tool, pins, |_| {
                made += 1;
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(made, 2);
    }

    #[test]
    fn what_failed_is_made_again_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("tool");
        let failed = ensure(&tool, "a 1", |dir| {
            fs::write(dir.join("half"), "")?;
            anyhow::bail!("no network")
        });
        assert!(failed.is_err());
        ensure(&tool, "a 1", |dir| {
            assert!(!dir.join("half").exists());
            Ok(())
        })
        .unwrap();
    }
}
