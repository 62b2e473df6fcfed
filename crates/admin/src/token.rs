//! The secret that opens the port.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use subtle::ConstantTimeEq;

/// Fewer could be guessed.
const OCTETS_MIN: usize = 32;
const OCTETS_MAX: u64 = 4096;
/// Others may do nothing with the file, its group may read it: so Kubernetes mounts secrets.
const FORBIDDEN_MODE: u32 = 0o037;

/// Not printed by anything: it has no `Debug`.
pub(crate) struct Token(Vec<u8>);

/// Why a file holds no token that may be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("is not a file")]
    NotFile,
    #[error("has mode {0:03o}, which lets others read or change it; chmod 600")]
    Mode(u32),
    #[error("has fewer than 32 characters; make one with `openssl rand -hex 32`")]
    Short,
    #[error("is longer than 4096 octets")]
    Long,
    #[error("has a character that no header field takes; make one with `openssl rand -hex 32`")]
    Character,
}

impl Token {
    /// Reads a file that holds it, with or without white space around it.
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        // A pipe would be waited for.
        if !fs::metadata(path).map_err(TokenError::Read)?.is_file() {
            return Err(TokenError::NotFile);
        }
        let file = File::open(path).map_err(TokenError::Read)?;
        // Of what was opened, whatever stands under the name meanwhile.
        let metadata = file.metadata().map_err(TokenError::Read)?;
        if !metadata.is_file() {
            return Err(TokenError::NotFile);
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & FORBIDDEN_MODE != 0 {
            return Err(TokenError::Mode(mode));
        }
        let mut text = Vec::new();
        file.take(OCTETS_MAX + 1).read_to_end(&mut text).map_err(TokenError::Read)?;
        if text.len() as u64 > OCTETS_MAX {
            return Err(TokenError::Long);
        }
        let token = text.trim_ascii();
        if token.len() < OCTETS_MIN {
            return Err(TokenError::Short);
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(TokenError::Character);
        }
        Ok(Self(token.to_vec()))
    }

    /// Takes as long for a token that is wrong in its last octet as in its first.
    pub(crate) fn is(&self, offered: &[u8]) -> bool {
        self.0.ct_eq(offered).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_token_in_a_file_of_its_own_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let read = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Token::read(&path)
        };
        let good = "0123456789abcdef0123456789abcdef";
        for mode in [0o400, 0o600, 0o640] {
            let token = read(&format!("{good}\n"), mode).ok().unwrap();
            assert!(token.is(good.as_bytes()));
            for wrong in ["", "0", &good[1..], "0123456789abcdef0123456789abcdeX"] {
                assert!(!token.is(wrong.as_bytes()), "{wrong}");
            }
        }
        for mode in [0o644, 0o604, 0o620, 0o602] {
            assert!(matches!(read(good, mode), Err(TokenError::Mode(found)) if found == mode));
        }
        assert!(matches!(read("", 0o600), Err(TokenError::Short)));
        assert!(matches!(read(&good[1..], 0o600), Err(TokenError::Short)));
        assert!(matches!(read(&good.repeat(129), 0o600), Err(TokenError::Long)));
        let spaced = format!("{good} {good}");
        assert!(matches!(read(&spaced, 0o600), Err(TokenError::Character)));
        assert!(matches!(Token::read(dir.path()), Err(TokenError::NotFile)));
        let nowhere = dir.path().join("none");
        assert!(matches!(Token::read(&nowhere), Err(TokenError::Read(_))));
    }
}
