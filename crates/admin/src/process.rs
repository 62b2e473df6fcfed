//! What the command line asks of the process itself, and not of its queue: on the socket only.
//!
//! ```text
//! POST /process/reload              Reloaded
//! POST /process/snapshot            Snapshot
//! POST /process/snapshot/ID/keep    Kept: it lasts for another while
//! POST /process/snapshot/ID/end     Kept: until now nothing of it was deleted
//! ```
//!
//! A refusal is `409` with its reason. It is no part of the API that `docs/openapi.json` describes:
//! the command line and the process are of one version.

use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

/// A process that serves roles. What it refuses, it refuses with a reason for an operator.
#[async_trait]
pub trait Process: Send + Sync + 'static {
    /// Reads the configuration again, and puts it in force if all of it can be.
    ///
    /// # Errors
    /// When it cannot: then nothing has changed.
    async fn reload(&self) -> Result<Reloaded, String>;

    /// The queue as it is now, of which nothing is deleted until the snapshot ends.
    ///
    /// # Errors
    /// When there is one already, or the queue is not in files.
    async fn take_snapshot(&self) -> Result<Snapshot, String>;

    /// Says that the snapshot is still wanted.
    ///
    /// # Errors
    /// When it has ended.
    fn keep_snapshot(&self, id: u64) -> Result<(), String>;

    /// Ends the snapshot.
    ///
    /// # Errors
    /// When it had ended before: what was copied since may not be whole.
    fn end_snapshot(&self, id: u64) -> Result<(), String>;
}

/// What a reload changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Fields of the configuration, such as `ingress.limits.recipientsMax`.
    pub changed: Vec<String>,
}

/// What has to be copied to have the queue as it was at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub id: u64,
    /// It ends by itself when it is not kept for so long.
    pub lasts_seconds: u64,
    /// The files of the log, of which the beginning is copied.
    pub log: Vec<SnapshotFile>,
}

/// A file of which the beginning is copied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotFile {
    /// Relative to the queue's directory.
    pub path: String,
    /// Octets of the beginning.
    pub bytes: u64,
}

/// That a snapshot was there when it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Kept {}

type Shared = State<Arc<dyn Process>>;

pub(crate) fn router(process: Arc<dyn Process>) -> Router {
    Router::new()
        .route("/process/reload", post(reload))
        .route("/process/snapshot", post(take_snapshot))
        .route("/process/snapshot/{id}/keep", post(keep_snapshot))
        .route("/process/snapshot/{id}/end", post(end_snapshot))
        .with_state(process)
}

async fn reload(State(process): Shared) -> Response {
    answer(process.reload().await)
}

async fn take_snapshot(State(process): Shared) -> Response {
    answer(process.take_snapshot().await)
}

async fn keep_snapshot(State(process): Shared, Path(id): Path<u64>) -> Response {
    answer(process.keep_snapshot(id).map(|()| Kept {}))
}

async fn end_snapshot(State(process): Shared, Path(id): Path<u64>) -> Response {
    answer(process.end_snapshot(id).map(|()| Kept {}))
}

fn answer(result: Result<impl Serialize, String>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(reason) => (StatusCode::CONFLICT, reason).into_response(),
    }
}
