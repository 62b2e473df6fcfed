//! Files that only their owner reads, such as keys that a process makes for itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file that is there under its name whole or not at all: a power cut must not leave half
/// a key, which would keep the process from starting, nor lose one that is in use.
///
/// # Errors
/// What the file system says. Nothing is there under the name then that was not before.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    // Who was ended before he was done may have left it, with whatever mode.
    if let Err(error) = fs::remove_file(&unfinished)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_there_is_whole_and_the_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.key");
        // Left by one who was ended before he was done.
        fs::write(dir.path().join("some.new"), "half of a longer text").unwrap();
        for text in ["first", "second"] {
            write_whole(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write_whole(&dir.path().join("none/some.key"), "text").is_err());
    }
}
