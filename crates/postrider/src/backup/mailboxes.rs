//! Copying Maildirs that are being read.
//!
//! A reader renames files while we look (`new` to `cur`, flags, folders), and a directory that is
//! listed meanwhile may show a file under neither name. So a mailbox is looked through again until
//! nothing new is found: what was there all the time is then in the copy. What was moved to another
//! folder just then may be in both.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::archive::{Archive, Kind, entries};
use super::looks::{Found, until_nothing_new};
use super::tree::Tree;

/// Copies all below `root`; links and the like are named in `left_out`.
pub(crate) fn copy(
    archive: &mut Archive,
    root: &Path,
    left_out: &mut Vec<String>,
) -> anyhow::Result<()> {
    copy_below(archive, root, root, left_out)
}

fn copy_below(
    archive: &mut Archive,
    root: &Path,
    directory: &Path,
    left_out: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut mailbox = Copying { archive, root, copied: HashSet::new(), left_out };
    let entries = entries(directory)?;
    let is_part = |path: &Path| path.file_name().is_some_and(|name| name == "cur" || name == "new");
    if directory != root && entries.iter().any(|(path, _)| is_part(path)) {
        return mailbox.copy(directory);
    }
    let mut below = Vec::new();
    for (path, kind) in entries {
        match kind {
            Kind::Directory => below.push(path),
            Kind::File | Kind::Other => {
                mailbox.entry(&path, kind)?;
            }
        }
    }
    for path in below {
        copy_below(archive, root, &path, left_out)?;
    }
    Ok(())
}

struct Copying<'a> {
    archive: &'a mut Archive,
    root: &'a Path,
    /// Files, by what does not change when they are moved within their folder.
    copied: HashSet<PathBuf>,
    left_out: &'a mut Vec<String>,
}

impl Copying<'_> {
    /// Copies a mailbox with its folders.
    fn copy(&mut self, directory: &Path) -> anyhow::Result<()> {
        until_nothing_new(|| self.look(directory))
    }

    fn look(&mut self, directory: &Path) -> anyhow::Result<Found> {
        let below = self.below(directory);
        self.archive.add_directory(Tree::Mail, &below)?;
        let mut found = Found::Nothing;
        let mut entries = entries(directory)?;
        // Mail goes from `new` to `cur`.
        entries.reverse();
        for (path, kind) in entries {
            let seen = match kind {
                Kind::Directory if path.file_name() == Some(OsStr::new("tmp")) => {
                    self.archive.add_directory(Tree::Mail, &self.below(&path))?;
                    Found::Nothing
                }
                Kind::Directory => self.look(&path)?,
                Kind::File | Kind::Other => self.entry(&path, kind)?,
            };
            found = if seen == Found::Something { seen } else { found };
        }
        Ok(found)
    }

    fn entry(&mut self, path: &Path, kind: Kind) -> anyhow::Result<Found> {
        let below = self.below(path);
        let key = unmoved(&below);
        if self.copied.contains(&key) {
            return Ok(Found::Nothing);
        }
        if kind == Kind::Other {
            self.left_out.push(path.display().to_string());
            self.copied.insert(key);
            return Ok(Found::Nothing);
        }
        match self.archive.add(Tree::Mail, &below, path, None) {
            Ok(()) => {
                self.copied.insert(key);
                Ok(Found::Something)
            }
            // Moved, or deleted: the next look tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Something),
            Err(error) => Err(error).with_context(|| format!("cannot copy {}", path.display())),
        }
    }

    fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.root).unwrap_or(path).to_owned()
    }
}

/// The name of a message's file without what a reader changes: `new` or `cur`, and flags.
fn unmoved(path: &Path) -> PathBuf {
    let (Some(part), Some(name)) = (path.parent(), path.file_name()) else {
        return path.to_owned();
    };
    let (Some(folder), Some(part)) = (part.parent(), part.file_name()) else {
        return path.to_owned();
    };
    if part != "new" && part != "cur" {
        return path.to_owned();
    }
    let octets = name.as_bytes();
    let end = octets.iter().rposition(|&b| b == b':').unwrap_or(octets.len());
    let base: OsString = OsStr::from_bytes(&octets[..end]).to_owned();
    folder.join("cur").join(base)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::backup::progress::Progress;
    use crate::cli::Output;

    #[test]
    fn flags_and_being_seen_make_no_other_file() {
        let of = |path| unmoved(Path::new(path));
        assert_eq!(of("a/b/new/1.x,S=5"), of("a/b/cur/1.x,S=5:2,"));
        assert_eq!(of("a/b/cur/1.x,S=5:2,"), of("a/b/cur/1.x,S=5:2,RS"));
        assert_ne!(of("a/b/new/1.x"), of("a/b/.Junk/new/1.x"));
        assert_ne!(of("a/b/new/1.x"), of("a/b/new/2.x"));
        assert_eq!(of("a/b/dovecot-uidlist"), Path::new("a/b/dovecot-uidlist"));
        assert_eq!(of("x"), Path::new("x"));
    }

    fn archive(directory: &Path) -> Archive {
        Archive::create(directory, Progress::new(Output::Table, "copied")).unwrap()
    }

    #[test]
    fn a_message_that_moves_is_copied_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("mail");
        let mailbox = root.join("a.example/alice");
        for below in ["new", "cur", "tmp", ".Junk/new", ".Junk/cur", ".Junk/tmp"] {
            fs::create_dir_all(mailbox.join(below)).unwrap();
        }
        for (name, text) in
            [("new/1", "one"), ("cur/2:2,", "two"), ("tmp/3", "half"), ("uidlist", "u")]
        {
            fs::write(mailbox.join(name), text).unwrap();
        }
        fs::write(root.join("note"), "of the administrator").unwrap();
        std::os::unix::fs::symlink("/etc", mailbox.join("link")).unwrap();
        let backup = dir.path().join("backup");
        let (mut archive, mut left_out) = (archive(&backup), Vec::new());
        let (archive, left_out, copied) = (&mut archive, &mut left_out, HashSet::new());
        let mut copying = Copying { archive, root: &root, copied, left_out };
        // Seen, between the look at `new` and the one at `cur`.
        assert!(copying.look(&mailbox.join("new")).unwrap() == Found::Something);
        fs::rename(mailbox.join("new/1"), mailbox.join("cur/1:2,S")).unwrap();
        let gone = copying.entry(&mailbox.join("new/9"), Kind::File).unwrap();
        assert!(gone == Found::Something, "looked for again");
        copying.copy(&mailbox).unwrap();
        assert_eq!(*copying.left_out, [mailbox.join("link").display().to_string()]);
        let is_there = |below: &str| backup.join("mail/a.example/alice").join(below).exists();
        assert!(is_there("new/1") && !is_there("cur/1:2,S"), "once");
        assert!(is_there("cur/2:2,") && is_there("uidlist") && !is_there("tmp/3"));
        assert!(is_there("tmp") && is_there(".Junk/cur"), "empty ones too");
    }

    #[test]
    fn all_mailboxes_and_what_lies_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let (root, backup) = (dir.path().join("mail"), dir.path().join("backup"));
        let files =
            ["a.example/alice/cur/1:2,S", "a.example/bob/.Junk/new/1", "b.example/note", "c"];
        for file in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), file).unwrap();
        }
        copy(&mut archive(&backup), &root, &mut Vec::new()).unwrap();
        for file in files {
            assert_eq!(fs::read_to_string(backup.join("mail").join(file)).unwrap(), file);
        }
        let nothing = dir.path().join("nothing");
        copy(&mut archive(&nothing), &dir.path().join("none"), &mut Vec::new()).unwrap();
    }
}
