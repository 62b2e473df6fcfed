//! The server's side of the socket.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use queue::Queue;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::{Passwords, api};

/// The socket, bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// Why the socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another process serves it; stop that one first")]
    InUse,
    #[error("a file that is not a socket is in its place; move it away")]
    NotSocket,
    #[error("the path of a socket has at most 100 octets; choose a shorter dataDir")]
    LongPath,
    #[error(transparent)]
    Io(io::Error),
}

impl Server {
    /// Binds the socket for its owner only. One that a killed process left is replaced; one on
    /// which somebody listens is not, nor is any other file.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        check_free(path).await?;
        // Made under another name until its mode is right: nobody may connect in between.
        let fresh = path.with_extension("new");
        let bind = || {
            remove_if_there(&fresh)?;
            let listener = UnixListener::bind(&fresh)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
            fs::rename(&fresh, path)?;
            Ok(listener)
        };
        let listener = bind().map_err(|error: io::Error| {
            let too_long = error.kind() == io::ErrorKind::InvalidInput;
            if too_long { BindError::LongPath } else { BindError::Io(error) }
        })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `stop`, then removes the socket.
    pub async fn serve(
        self,
        queue: Arc<dyn Queue>,
        passwords: Option<Arc<dyn Passwords>>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let router = api::router(queue, passwords);
        // Not gracefully: an operator's endless list must not hold the process.
        let served = tokio::select! {
            served = async { axum::serve(self.listener, router).await } => served,
            () = stop.cancelled() => Ok(()),
        };
        let _ = fs::remove_file(&self.path);
        served
    }
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
