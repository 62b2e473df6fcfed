//! The server's side.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query as UrlQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use mail_types::QueueId;
use queue::{Queue, QueueError};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::query::{ActRequest, Query};
use crate::view::JobView;

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
    pub async fn serve(self, queue: Arc<dyn Queue>, stop: CancellationToken) -> io::Result<()> {
        // Not gracefully: an operator's endless list must not hold the process.
        let served = tokio::select! {
            served = async { axum::serve(self.listener, router(queue)).await } => served,
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

fn router(queue: Arc<dyn Queue>) -> Router {
    Router::new()
        .route("/v1/jobs", get(jobs))
        .route("/v1/messages/{id}", get(message))
        .route("/v1/actions", post(act))
        .route("/v1/stats", get(stats))
        .with_state(queue)
}

type Shared = State<Arc<dyn Queue>>;

async fn jobs(State(queue): Shared, UrlQuery(query): UrlQuery<Query>) -> Response {
    lines(queue.list(query.into()))
}

async fn message(State(queue): Shared, UrlPath(id): UrlPath<QueueId>) -> Response {
    let jobs = queue.show(id).await;
    answer(jobs.map(|jobs| jobs.into_iter().map(JobView::from).collect::<Vec<_>>()))
}

async fn act(State(queue): Shared, Json(request): Json<ActRequest>) -> Response {
    if request.filter == Query::default() && !request.all {
        let problem = "no filter: give one, or say that you mean the whole queue";
        return (StatusCode::BAD_REQUEST, problem).into_response();
    }
    lines(queue.act(request.filter.into(), request.action))
}

async fn stats(State(queue): Shared) -> Response {
    answer(queue.stats().await)
}

fn answer(result: Result<impl Serialize, QueueError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, with_causes(&error)).into_response(),
    }
}

fn lines<T: Serialize + 'static>(items: BoxStream<'static, Result<T, QueueError>>) -> Response {
    let line = |item: Result<T, QueueError>| {
        let value = match item {
            Ok(item) => serde_json::to_string(&item),
            Err(error) => serde_json::to_string(&Failure { error: with_causes(&error) }),
        };
        value.map(|line| Bytes::from(line + "\n"))
    };
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(items.map(line))).into_response()
}

/// The last line of a stream that failed.
#[derive(Serialize)]
struct Failure {
    error: String,
}

/// An error and what caused it, in one line for the operator.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
