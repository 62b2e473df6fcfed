//! The server's side of the socket.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Sources};
use crate::process::{self, Process};
use crate::socket::{self, BindError};

/// The socket, bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    beside: Router,
}

impl Server {
    /// Binds the socket for its owner only.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let listener = socket::bind(path, 0o600).await?;
        Ok(Self { listener, path: path.to_owned(), beside: Router::new() })
    }

    /// Has what is asked of the process itself answered too.
    pub fn with_process(self, process: Arc<dyn Process>) -> Self {
        Self { beside: process::router(process), ..self }
    }

    /// Serves until `stop`, then removes the socket.
    pub async fn serve(self, sources: Sources, stop: CancellationToken) -> io::Result<()> {
        // Not gracefully: an operator's endless list must not hold the process.
        let router = api::router(sources).merge(self.beside);
        let served = tokio::select! {
            served = async { axum::serve(self.listener, router).await } => served,
            () = stop.cancelled() => Ok(()),
        };
        let _ = fs::remove_file(&self.path);
        served
    }
}
