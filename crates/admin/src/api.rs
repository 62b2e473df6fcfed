//! What may be asked of a queue, on whatever an operator reaches us by.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query as UrlQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use mail_types::QueueId;
use queue::{Acted, Filter, JobSummary, Queue, QueueError, Stats};
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi;
use crate::passwords;
use crate::query::{ActRequest, Query};
use crate::top::{self, Top, TopQuery};
use crate::view::JobView;

/// The longest request that is read.
const BODY_OCTETS_MAX: usize = 64 << 10;

pub(crate) fn router(queue: Arc<dyn Queue>, passwords: passwords::Shared) -> Router {
    Router::new()
        .route("/v1/jobs", get(jobs))
        .route("/v1/messages/{id}", get(message))
        .route("/v1/actions", post(act))
        .route("/v1/stats", get(stats))
        .route("/v1/top", get(top))
        .route("/v1/openapi.json", get(document))
        .with_state(queue)
        .merge(passwords::router(passwords))
        .layer(DefaultBodyLimit::max(BODY_OCTETS_MAX))
}

type Shared = State<Arc<dyn Queue>>;

/// The jobs that match, one a line as they are found, in order of arrival.
///
/// Without a filter all of them. When the queue fails on the way, the last line is a `Failure`.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    params(Query),
    responses(
        (status = 200, body = JobSummary, content_type = "application/x-ndjson",
         description = "A `JobSummary` on each line"),
        (status = "4XX", body = String, description = "The question is not understood"),
    )
)]
pub(crate) async fn jobs(State(queue): Shared, UrlQuery(query): UrlQuery<Query>) -> Response {
    lines(queue.list(query.into()))
}

/// A message: its jobs with their recipients and last attempts.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}",
    params(("id" = QueueId, Path)),
    responses(
        (status = 200, body = Vec<JobView>,
         description = "Empty when it is not in the queue: what became of it is in the log"),
        (status = "4XX", body = String, description = "The question is not understood"),
        (status = 503, body = String, description = "The queue does not answer: why"),
    )
)]
pub(crate) async fn message(State(queue): Shared, Path(id): Path<QueueId>) -> Response {
    let jobs = queue.show(id).await;
    answer(jobs.map(|jobs| jobs.into_iter().map(JobView::from).collect::<Vec<_>>()))
}

/// Does something to the jobs that match; tells of each, one a line, as it is done.
///
/// Who goes away before the last line stops it there. When the queue fails on the way, the last
/// line is a `Failure`.
#[utoipa::path(
    post,
    path = "/v1/actions",
    request_body = ActRequest,
    responses(
        (status = 200, body = Acted, content_type = "application/x-ndjson",
         description = "An `Acted` on each line"),
        (status = "4XX", body = String,
         description = "The request is not understood, or has no filter and does not say `all`"),
    )
)]
pub(crate) async fn act(State(queue): Shared, Json(request): Json<ActRequest>) -> Response {
    if request.filter == Query::default() && !request.all {
        let problem = "no filter: give one, or say that you mean the whole queue";
        return (StatusCode::BAD_REQUEST, problem).into_response();
    }
    let filter: Filter = request.filter.into();
    tracing::info!(event = "operator_acts", action = ?request.action, ?filter);
    let action = request.action;
    let acted = queue.act(filter, action).inspect_ok(move |acted| {
        tracing::info!(event = "acted", id = %acted.job, ?action, result = ?acted.result);
    });
    lines(acted.boxed())
}

/// The queue in numbers.
#[utoipa::path(
    get,
    path = "/v1/stats",
    responses(
        (status = 200, body = Stats, description = "Jobs by phase, and the store"),
        (status = 503, body = String, description = "The queue does not answer: why"),
    )
)]
pub(crate) async fn stats(State(queue): Shared) -> Response {
    answer(queue.stats().await)
}

/// The next hops, or the reasons, that most jobs have in common.
#[utoipa::path(
    get,
    path = "/v1/top",
    params(TopQuery),
    responses(
        (status = 200, body = Top, description = "Those with most jobs first"),
        (status = "4XX", body = String, description = "The question is not understood"),
        (status = 503, body = String, description = "The queue does not answer: why"),
    )
)]
pub(crate) async fn top(State(queue): Shared, UrlQuery(query): UrlQuery<TopQuery>) -> Response {
    let of = Query { phase: query.phase, ..Query::default() };
    answer(top::count(queue.list(of.into()), query.by).await)
}

/// This document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    responses((status = 200, body = Object, description = "OpenAPI 3.1"))
)]
pub(crate) async fn document() -> Response {
    Json(openapi::document()).into_response()
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
#[derive(Serialize, ToSchema)]
pub(crate) struct Failure {
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
