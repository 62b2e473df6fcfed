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
use history::{Outcomes, Past};
use mail_types::QueueId;
use queue::{Acted, Filter, JobSummary, Queue, QueueError, Stats};
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi;
use crate::passwords;
use crate::query::{ActRequest, Query};
use crate::top::{self, Top, TopQuery};
use crate::trace::{self, Trace};
use crate::view::JobView;

/// The longest request that is read.
const BODY_OCTETS_MAX: usize = 64 << 10;

/// What operators' questions are answered from.
#[derive(Clone)]
pub struct Sources {
    pub queue: Arc<dyn Queue>,
    /// What the queue has forgotten.
    pub past: Arc<dyn Past>,
    /// What is known of passwords; `None` where nobody logs in.
    pub passwords: passwords::Shared,
}

pub(crate) fn router(sources: Sources) -> Router {
    let passwords = sources.passwords.clone();
    Router::new()
        .route("/v1/jobs", get(jobs))
        .route("/v1/messages/{id}", get(message))
        .route("/v1/messages/{id}/content", get(content))
        .route("/v1/messages/{id}/trace", get(trace))
        .route("/v1/actions", post(act))
        .route("/v1/stats", get(stats))
        .route("/v1/top", get(top))
        .route("/v1/outcomes", get(outcomes))
        .route("/v1/openapi.json", get(document))
        .with_state(sources)
        .merge(passwords::router(passwords))
        .layer(DefaultBodyLimit::max(BODY_OCTETS_MAX))
}

type Shared = State<Sources>;

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
pub(crate) async fn jobs(State(inside): Shared, UrlQuery(query): UrlQuery<Query>) -> Response {
    lines(inside.queue.list(query.into()))
}

/// A message: its jobs with their recipients and last attempts.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}",
    params(("id" = QueueId, Path)),
    responses(
        (status = 200, body = Vec<JobView>,
         description = "Empty when it is not in the queue: its trace may tell what became of it"),
        (status = "4XX", body = String, description = "The question is not understood"),
        (status = 503, body = String, description = "The queue does not answer: why"),
    )
)]
pub(crate) async fn message(State(inside): Shared, Path(id): Path<QueueId>) -> Response {
    let jobs = inside.queue.show(id).await;
    answer(jobs.map(|jobs| jobs.into_iter().map(JobView::from).collect::<Vec<_>>()))
}

/// A message as it is delivered: header fields of ours, then what was received.
///
/// Nothing else shows content. That it was asked for is logged. When it cannot be read to its end
/// the connection is closed before it.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}/content",
    params(("id" = QueueId, Path)),
    responses(
        (status = 200, body = String, content_type = "message/rfc822",
         description = "As many octets as Content-Length says"),
        (status = "4XX", body = String,
         description = "The question is not understood, or the message is not in the queue"),
        (status = 503, body = String, description = "It cannot be read: why"),
    )
)]
pub(crate) async fn content(State(inside): Shared, Path(id): Path<QueueId>) -> Response {
    tracing::info!(event = "content_shown", id = %id);
    match inside.queue.content(id).await {
        Ok(Some(content)) => {
            let head = [
                (header::CONTENT_TYPE, "message/rfc822".to_owned()),
                (header::CONTENT_LENGTH, content.size.to_string()),
            ];
            (head, Body::from_stream(content.chunks)).into_response()
        }
        Ok(None) => (StatusCode::NOT_FOUND, format!("{id} is not in the queue")).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, with_causes(&error)).into_response(),
    }
}

/// The way of a message: how it came, its jobs with their attempts, the DSNs that were made for it
/// with theirs; also when it has left the queue, as far as the history goes back.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}/trace",
    params(("id" = QueueId, Path)),
    responses(
        (status = 200, body = Trace, description = "Without jobs when nothing is known of it"),
        (status = "4XX", body = String, description = "The question is not understood"),
        (status = 503, body = String, description = "The queue or the history does not answer"),
    )
)]
pub(crate) async fn trace(State(inside): Shared, Path(id): Path<QueueId>) -> Response {
    answer(trace::of(&inside, id).await)
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
pub(crate) async fn act(State(inside): Shared, Json(request): Json<ActRequest>) -> Response {
    if request.filter == Query::default() && !request.all {
        let problem = "no filter: give one, or say that you mean the whole queue";
        return (StatusCode::BAD_REQUEST, problem).into_response();
    }
    let filter: Filter = request.filter.into();
    tracing::info!(event = "operator_acts", action = ?request.action, ?filter);
    let action = request.action;
    let acted = inside.queue.act(filter, action).inspect_ok(move |acted| {
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
pub(crate) async fn stats(State(inside): Shared) -> Response {
    answer(inside.queue.stats().await)
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
pub(crate) async fn top(State(inside): Shared, UrlQuery(query): UrlQuery<TopQuery>) -> Response {
    let of = Query { phase: query.phase, ..Query::default() };
    answer(top::count(inside.queue.list(of.into()), query.by).await)
}

/// What attempts of the last hour came to: recipients by outcome and reason.
#[utoipa::path(
    get,
    path = "/v1/outcomes",
    responses(
        (status = 200, body = Outcomes, description = "Those with most recipients first"),
        (status = 503, body = String, description = "Other processes cannot be asked: why"),
    )
)]
pub(crate) async fn outcomes(State(inside): Shared) -> Response {
    answer(inside.past.outcomes().await)
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

fn answer(result: Result<impl Serialize, impl std::error::Error + 'static>) -> Response {
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
