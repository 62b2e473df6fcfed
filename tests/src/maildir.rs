//! Reading what lies in Maildirs below a directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// Every message in a `new` or `cur` below `root`.
pub fn messages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                todo.push(path);
            } else if dir.ends_with("new") || dir.ends_with("cur") {
                found.push(path);
            }
        }
    }
    Ok(found)
}
