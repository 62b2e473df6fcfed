//! SHA-256 of files, and the list of them that `sha256sum -c` reads too.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

const CHUNK: usize = 256 << 10;

/// What was read of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Summed {
    pub(crate) bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub(crate) sum: String,
}

/// Reads a file to its end.
pub(crate) fn of_file(path: &Path) -> io::Result<Summed> {
    pass(&mut File::open(path)?, &mut io::sink())
}

/// Copies the first `bytes` octets of a file, or all of it, into a new one that only its owner
/// reads. The caller syncs.
pub(crate) fn copy(from: &Path, to: &Path, bytes: Option<u64>) -> io::Result<Summed> {
    // Opened first: what is gone leaves nothing behind.
    let source = File::open(from)?;
    if let Some(directory) = to.parent() {
        private_directory(directory)?;
    }
    let mut options = OpenOptions::new();
    let mut target = options.write(true).create_new(true).mode(0o600).open(to)?;
    let summed = pass(&mut source.take(bytes.unwrap_or(u64::MAX)), &mut target)?;
    if bytes.is_some_and(|bytes| summed.bytes < bytes) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(summed)
}

/// Makes a directory that only its owner enters, and those above it.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn pass(source: &mut impl Read, target: &mut impl Write) -> io::Result<Summed> {
    let (mut context, mut bytes) = (Context::new(&SHA256), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match source.read(&mut chunk) {
            Ok(0) => return Ok(Summed { bytes, sum: hex(context) }),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(&chunk[..read]);
        target.write_all(&chunk[..read])?;
        bytes += read as u64;
    }
}

fn hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A line of the list, as `sha256sum` writes it: names with a line end or a backslash are escaped,
/// and the line then begins with a backslash.
pub(crate) fn line(path: &Path, sum: &str) -> Vec<u8> {
    let name = path.as_os_str().as_bytes();
    let is_plain = !name.iter().any(|b| matches!(b, b'\n' | b'\r' | b'\\'));
    let mut line = if is_plain { Vec::new() } else { b"\\".to_vec() };
    line.extend_from_slice(sum.as_bytes());
    line.extend_from_slice(b"  ");
    for &b in name {
        match b {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b => line.push(b),
        }
    }
    line.push(b'\n');
    line
}

/// Reads a line without its end; `None` when it is none.
pub(crate) fn parse(line: &[u8]) -> Option<(PathBuf, String)> {
    let (is_escaped, line) = match line.strip_prefix(b"\\") {
        Some(line) => (true, line),
        None => (false, line),
    };
    let (sum, name) = line.split_at_checked(64)?;
    let sum = std::str::from_utf8(sum).ok()?;
    let name = name.strip_prefix(b"  ").filter(|name| !name.is_empty())?;
    let is_sum = sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let name = if is_escaped { unescape(name)? } else { OsStr::from_bytes(name).to_owned() };
    is_sum.then(|| (name.into(), sum.to_owned()))
}

fn unescape(name: &[u8]) -> Option<OsString> {
    let (mut plain, mut octets) = (Vec::with_capacity(name.len()), name.iter());
    while let Some(&b) = octets.next() {
        plain.push(match b {
            b'\\' => match octets.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            b => b,
        });
    }
    Some(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let sum = "0123456789abcdef".repeat(4);
        let names: [&[u8]; 6] =
            [b"mail/a/new/1", b"a b", b"tab\t", b"line\nend\\n", b"\xff\\", b"\r"];
        for name in names {
            let path = PathBuf::from(OsStr::from_bytes(name));
            let line = line(&path, &sum);
            let (end, start) = line.split_last().unwrap();
            assert_eq!((*end, start.contains(&b'\n')), (b'\n', false));
            assert_eq!(parse(start), Some((path, sum.clone())));
        }
        for wrong in [
            String::new(),
            format!("{sum}  "),
            format!("{sum} x"),
            format!("{}  x", sum.to_uppercase()),
            format!("{}  x", &sum[1..]),
            format!("\\{sum}  x\\q"),
            format!("\\{sum}  x\\"),
        ] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn the_beginning_of_a_file_or_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::write(&from, "abcdef").unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o644)).unwrap();
        let to = |name: &str| dir.path().join("below").join(name);
        // `printf abc | sha256sum`
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let summed = copy(&from, &to("some"), Some(3)).unwrap();
        assert_eq!((summed.bytes, &*summed.sum), (3, abc));
        assert_eq!(of_file(&to("some")).unwrap(), summed);
        assert_eq!(copy(&from, &to("all"), None).unwrap().bytes, 6);
        for (path, mode) in [(to("all"), 0o600), (dir.path().join("below"), 0o700)] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        }
        let short = copy(&from, &to("short"), Some(7)).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        let twice = copy(&from, &to("all"), None).unwrap_err();
        assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
        assert!(copy(&dir.path().join("none"), &to("none"), None).is_err());
        assert!(!to("none").exists());
    }
}
