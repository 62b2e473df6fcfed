//! The server's side of the socket.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use queue::Queue;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::socket::{self, BindError};

/// The socket, bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Binds the socket for its owner only.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let listener = socket::bind(path, 0o600).await?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `stop`, then removes the socket.
    pub async fn serve(self, queue: Arc<dyn Queue>, stop: CancellationToken) -> io::Result<()> {
        // Not gracefully: an operator's endless list must not hold the process.
        let served = tokio::select! {
            served = async { axum::serve(self.listener, api::router(queue)).await } => served,
            () = stop.cancelled() => Ok(()),
        };
        let _ = fs::remove_file(&self.path);
        served
    }
}
