//! The passwords of those who log in, as far as an operator may see them.

use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{Query as UrlQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use mail_types::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::query::Login;

/// A password of a mailbox. Nothing tells what it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordView {
    /// As in the Mailbox.
    pub name: String,
    /// How its hash was made, as Dovecot calls it.
    pub scheme: String,
    /// When it let somebody in; up to a minute old. Absent when it never did, or more than 400 days
    /// ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_use: Option<Timestamp>,
    /// By which listener: `submission`, `submissions`, or `dovecot` for IMAP and POP3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

/// Who knows them.
#[async_trait]
pub trait Passwords: Send + Sync {
    /// Those that a login has; `None` when nobody logs in by that name.
    ///
    /// # Errors
    /// Why it is not known at the moment.
    async fn of(&self, login: &str) -> Result<Option<Vec<PasswordView>>, String>;
}

/// `None` in a process that nobody logs in to.
pub(crate) type Shared = Option<Arc<dyn Passwords>>;

pub(crate) fn router(passwords: Shared) -> Router {
    Router::new().route("/v1/passwords", get(show)).with_state(passwords)
}

/// The passwords of a mailbox: names, schemes, last uses.
#[utoipa::path(
    get,
    path = "/v1/passwords",
    params(Login),
    responses(
        (status = 200, body = Vec<PasswordView>, description = "In the order of the Mailbox"),
        (status = "4XX", body = String,
         description = "The question is not understood, or nobody logs in by that name here"),
        (status = 503, body = String, description = "It is not known at the moment: why"),
    )
)]
pub(crate) async fn show(
    State(passwords): State<Shared>,
    UrlQuery(Login { login }): UrlQuery<Login>,
) -> Response {
    let Some(passwords) = passwords else {
        let problem = "nobody logs in to this process: ask one that has submission listeners";
        return (StatusCode::NOT_FOUND, problem).into_response();
    };
    match passwords.of(&login).await {
        Ok(Some(found)) => Json(found).into_response(),
        Ok(None) => {
            let problem = format!(
                "nobody logs in as {login:?}: there is no such mailbox, or it has no password, or \
                 it is suspended"
            );
            (StatusCode::NOT_FOUND, problem).into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}
