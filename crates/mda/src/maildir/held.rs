//! What a mailbox holds, from the names of its files.

use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Messages of a mailbox, in all its folders.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Octets of their files.
    pub bytes: u64,
    pub messages: u64,
}

/// Counts what is in a Maildir and its folders (Maildir++), the trash too: it takes room as well.
/// Nothing where there is no Maildir yet.
///
/// # Errors
/// The disk's.
pub fn count(inbox: &Path) -> io::Result<Held> {
    let mut held = Held::default();
    for maildir in folders(inbox)?.iter().map(PathBuf::as_path).chain([inbox]) {
        for part in ["new", "cur"] {
            for entry in entries(&maildir.join(part))? {
                // What is removed meanwhile is not there.
                if let Some(size) = present(size(&entry?))? {
                    held.bytes = held.bytes.saturating_add(size);
                    held.messages += 1;
                }
            }
        }
    }
    Ok(held)
}

fn folders(inbox: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in entries(inbox)? {
        let entry = entry?;
        let is_named = entry.file_name().as_encoded_bytes().starts_with(b".");
        // A link could lead to another's mail.
        if is_named && present(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    Ok(present(fs::read_dir(dir))?.into_iter().flatten())
}

fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `,S=` in the name tells it; other programs may leave it out.
fn size(entry: &DirEntry) -> io::Result<u64> {
    match entry.file_name().to_str().and_then(named_size) {
        Some(size) => Ok(size),
        None => entry.metadata().map(|metadata| metadata.len()),
    }
}

fn named_size(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once(",S=")?;
    let end = rest.find([',', ':']).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_in_names() {
        for (name, size) in [
            ("1.a.p,S=20", Some(20)),
            ("1.a.p,S=20:2,S", Some(20)),
            ("1.a.p,S=20,W=21:2,RS", Some(20)),
            ("1.a.p,W=21,S=20:2,", Some(20)),
            ("1.a.p", None),
            ("1.a.p,S=", None),
            ("1.a.p,S=2x", None),
            ("1.a.p,S=99999999999999999999", None),
        ] {
            assert_eq!(named_size(name), size, "{name}");
        }
    }

    #[test]
    fn all_folders_count_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = dir.path().join("inbox");
        assert_eq!(count(&inbox).unwrap(), Held::default());
        for (path, octets) in [
            ("new/1.a,S=1000", 1),
            ("cur/2.a,S=200:2,S", 1),
            ("cur/3.a:2,S", 30),
            (".Trash/cur/4.a,S=4", 1),
            (".Lists.rust/new/5.a,S=50000", 1),
            ("tmp/6.a,S=600000", 1),
            ("Lists/new/7.a,S=7000000", 1),
            (".x", 1),
            ("dovecot.index.log", 1),
        ] {
            let path = inbox.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![b'x'; octets]).unwrap();
        }
        std::os::unix::fs::symlink(inbox.join(".Trash"), inbox.join(".Link")).unwrap();
        assert_eq!(count(&inbox).unwrap(), Held { bytes: 51_234, messages: 5 });
    }

    proptest! {
        #[test]
        fn any_name_has_a_size_or_none(name in "\\PC{0,30}") {
            let _ = named_size(&name);
            prop_assert_eq!(named_size(&format!("1.a,S=7,{name}")), Some(7));
        }
    }
}
