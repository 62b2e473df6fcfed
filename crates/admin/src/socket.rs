//! A Unix socket at a path, for this process alone.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another process serves it; stop that one first")]
    InUse,
    #[error("a file that is not a socket is in its place; move it away")]
    NotSocket,
    #[error("the path of a socket has at most 100 octets; choose a shorter directory")]
    LongPath,
    #[error(transparent)]
    Io(io::Error),
}

/// Binds a socket that those may open whom `mode` allows it. One that a killed process left is
/// replaced; one on which somebody listens is not, nor is any other file.
pub async fn bind(path: &Path, mode: u32) -> Result<UnixListener, BindError> {
    check_free(path).await?;
    // Made under another name until its mode is right: nobody may connect in between.
    let fresh = path.with_extension("new");
    let bind = || {
        remove_if_there(&fresh)?;
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))?;
        fs::rename(&fresh, path)?;
        Ok(listener)
    };
    bind().map_err(|error: io::Error| {
        let too_long = error.kind() == io::ErrorKind::InvalidInput;
        if too_long { BindError::LongPath } else { BindError::Io(error) }
    })
}

async fn check_free(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotSocket),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::Io(error)),
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // Whatever else it is, somebody may be listening.
        Ok(_) | Err(_) => Err(BindError::InUse),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
