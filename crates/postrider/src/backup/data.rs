//! Copying `dataDir`, but for what is copied in another way.
//!
//! The process goes on writing: a file that is being made has another name a moment later, and one
//! that is full, such as the history, makes room for the next. So each directory is looked at again
//! until nothing new is found; what was there all the time is then in the copy.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::archive::{Archive, Kind, entries};
use super::looks::{Found, until_nothing_new};
use super::tree::Tree;

/// Copies all below `root` but what is `passed`; links and the like are named in `left_out`.
pub(crate) fn copy(
    archive: &mut Archive,
    root: &Path,
    passed: HashSet<PathBuf>,
    left_out: &mut Vec<String>,
) -> anyhow::Result<()> {
    Copying { archive, root, passed, left_out }.copy(root)
}

struct Copying<'a> {
    archive: &'a mut Archive,
    root: &'a Path,
    /// What is done with, or is not ours to copy.
    passed: HashSet<PathBuf>,
    left_out: &'a mut Vec<String>,
}

impl Copying<'_> {
    fn copy(&mut self, directory: &Path) -> anyhow::Result<()> {
        until_nothing_new(|| self.look(directory))
    }

    fn look(&mut self, directory: &Path) -> anyhow::Result<Found> {
        let mut found = Found::Nothing;
        for (path, kind) in entries(directory)? {
            if !self.passed.contains(&path) {
                self.entry(&path, kind)?;
                found = Found::Something;
            }
        }
        Ok(found)
    }

    fn entry(&mut self, path: &Path, kind: Kind) -> anyhow::Result<()> {
        let below = path.strip_prefix(self.root)?;
        match kind {
            Kind::Directory => self.copy(path)?,
            Kind::Other => self.left_out.push(path.display().to_string()),
            Kind::File => match self.archive.add(Tree::Data, below, path, None) {
                // It has another name by now: the next look tells.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                added => added.with_context(|| format!("cannot copy {}", path.display()))?,
            },
        }
        self.passed.insert(path.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::backup::progress::Progress;
    use crate::cli::Output;

    #[test]
    fn what_vanishes_or_is_renamed_meanwhile_is_in_no_way() {
        let dir = tempfile::tempdir().unwrap();
        let (root, backup) = (dir.path().join("data"), dir.path().join("backup"));
        fs::create_dir_all(root.join("history")).unwrap();
        fs::write(root.join("history/new"), "a job").unwrap();
        let mut archive = Archive::create(&backup, Progress::new(Output::Table, "copied")).unwrap();
        let (archive, left_out) = (&mut archive, &mut Vec::new());
        let passed = HashSet::from([root.join("admin.sock")]);
        let mut copying = Copying { archive, root: &root, passed, left_out };
        // Seen, and renamed before it was copied; another one came.
        let seen = entries(&root.join("history")).unwrap();
        fs::rename(root.join("history/new"), root.join("history/old")).unwrap();
        for (path, kind) in seen.into_iter().chain([(root.join("last-uses.new"), Kind::File)]) {
            copying.entry(&path, kind).unwrap();
        }
        fs::write(root.join("history/new"), "the next").unwrap();
        fs::write(root.join("last-uses.json"), "{}").unwrap();
        fs::write(root.join("admin.sock"), "").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        copying.copy(&root).unwrap();
        assert_eq!(*copying.left_out, [root.join("link").display().to_string()]);
        let read = |below: &str| fs::read_to_string(backup.join("data").join(below)).ok();
        assert_eq!(read("history/old").as_deref(), Some("a job"));
        assert_eq!(read("history/new").as_deref(), Some("the next"));
        assert_eq!(read("last-uses.json").as_deref(), Some("{}"));
        assert_eq!((read("last-uses.new"), read("admin.sock")), (None, None));
    }
}
