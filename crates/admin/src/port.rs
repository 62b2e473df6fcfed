//! The port of operators: the API for those who show the token, and the page.
//!
//! What a browser on the same machine could be made to do is refused: a request under a name that
//! is not ours (a foreign name that was pointed at loopback), and one without the token, which no
//! other page knows. No header allows another page to read an answer.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri, uri::Authority};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, http::HeaderName};
use queue::Queue;

use crate::token::{Token, TokenError};
use crate::{Passwords, api, page};

/// Scripts and styles are ours alone, none is in the page itself, and none can be made of text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What is served on the port.
pub fn router(
    queue: Arc<dyn Queue>,
    passwords: Option<Arc<dyn Passwords>>,
    token_file: &Path,
) -> Router {
    let token_file: Arc<Path> = token_file.into();
    api::router(queue, passwords)
        .route_layer(middleware::from_fn_with_state(token_file, with_token))
        .merge(page::router())
        .layer(middleware::from_fn(under_our_name))
}

async fn under_our_name(request: Request, next: Next) -> Response {
    let mut response = if is_for_us(request.headers(), request.uri()) {
        next.run(request).await
    } else {
        let problem = "this port answers to localhost, 127.0.0.1 and [::1] only\n";
        (StatusCode::MISDIRECTED_REQUEST, problem).into_response()
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whichever port is named: a tunnel begins at another.
fn is_for_us(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = Authority::try_from(host.as_bytes());
    host.is_ok_and(|host| is_loopback(&host)) && uri.authority().is_none_or(is_loopback)
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_address = bare.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    !authority.as_str().contains('@') && (is_address || host.eq_ignore_ascii_case("localhost"))
}

async fn with_token(State(file): State<Arc<Path>>, request: Request, next: Next) -> Response {
    let Some(offered) = bearer(request.headers()) else {
        return unauthorized("Bearer realm=\"postrider\"");
    };
    match is_token(file.to_path_buf(), offered.to_vec()).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            tracing::warn!(event = "operator_refused", path = request.uri().path(), "wrong token");
            unauthorized("Bearer realm=\"postrider\", error=\"invalid_token\"")
        }
        Err(error) => {
            // Whoever asks has shown nothing, and is told nothing of files.
            tracing::error!(event = "operator_refused", %error, "admin.tokenFile");
            let problem = "admin.tokenFile cannot be used; the log says why\n";
            (StatusCode::SERVICE_UNAVAILABLE, problem).into_response()
        }
    }
}

/// The credentials of RFC 6750 §2.1.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii())
}

/// Reads the file each time: a token that was replaced is refused from then on.
async fn is_token(file: PathBuf, offered: Vec<u8>) -> Result<bool, TokenError> {
    let compare = move || Token::read(&file).map(|token| token.is(&offered));
    let compared = tokio::task::spawn_blocking(compare).await;
    compared.unwrap_or_else(|error| Err(TokenError::Read(error.into())))
}

fn unauthorized(challenge: &'static str) -> Response {
    let problem = "show the token of admin.tokenFile: `Authorization: Bearer TOKEN`\n";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], problem).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        let is_ours = |host: &str| {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            is_for_us(&headers, &Uri::from_static("/"))
        };
        for host in ["localhost", "LocalHost:9000", "127.0.0.1:8026", "127.1.2.3", "[::1]:80"] {
            assert!(is_ours(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "192.0.2.1:8026",
            "[::2]",
            "0.0.0.0",
            "localhost, evil.example",
        ] {
            assert!(!is_ours(host), "{host}");
        }
        assert!(!is_for_us(&HeaderMap::new(), &Uri::from_static("/")), "no name at all");
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("localhost"));
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(!is_for_us(&two, &Uri::from_static("/")));
        let one = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        assert!(!is_for_us(&one, &Uri::from_static("http://evil.example/")));
    }
}
