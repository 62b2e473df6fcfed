//! The command line's side.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mail_types::QueueId;
use queue::{Acted, JobSummary, Stats};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::passwords::PasswordView;
use crate::process::{Kept, Reloaded, Snapshot};
use crate::query::{ActRequest, Query};
use crate::trace::Trace;
use crate::view::JobView;

/// The longest line that is read of an answer.
const LINE_OCTETS_MAX: usize = 4 << 20;

/// Asks a running process by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("nobody serves {}; is `postrider serve` running on this directory?", socket.display())]
    NotRunning {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the process went away in the middle of the answer")]
    Broken(#[from] hyper::Error),
    /// The process said why.
    #[error("{0}")]
    Refused(String),
    #[error("the process answers in a form that this version does not know")]
    Form(#[from] serde_json::Error),
    #[error("a line of the answer is longer than 4 MiB")]
    LongLine,
    #[error("the answer cannot be written")]
    Written(#[source] io::Error),
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Calls `each` with every job that matches, as it is found.
    pub async fn list(
        &self,
        query: &Query,
        each: impl FnMut(JobSummary),
    ) -> Result<(), ClientError> {
        let query = query_string(query)?;
        let response = self.send("GET", &format!("/v1/jobs{query}"), Bytes::new()).await?;
        read_lines(response, each).await
    }

    /// The jobs of a message; empty when it is not in the queue.
    pub async fn show(&self, message: QueueId) -> Result<Vec<JobView>, ClientError> {
        self.ask("GET", &format!("/v1/messages/{message}")).await
    }

    /// The way of a message; without jobs when nothing is known of it.
    pub async fn trace(&self, message: QueueId) -> Result<Trace, ClientError> {
        self.ask("GET", &format!("/v1/messages/{message}/trace")).await
    }

    /// Writes a message into `to`; gives its octets.
    pub async fn content(
        &self,
        message: QueueId,
        to: &mut impl io::Write,
    ) -> Result<u64, ClientError> {
        let path = format!("/v1/messages/{message}/content");
        let mut body = self.send("GET", &path, Bytes::new()).await?.into_body();
        let mut octets = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            to.write_all(&data).map_err(ClientError::Written)?;
            octets += data.len() as u64;
        }
        Ok(octets)
    }

    /// Calls `each` with every job that was acted on, as it is done.
    pub async fn act(
        &self,
        request: &ActRequest,
        each: impl FnMut(Acted),
    ) -> Result<(), ClientError> {
        let body = Bytes::from(serde_json::to_vec(request)?);
        let response = self.send("POST", "/v1/actions", body).await?;
        read_lines(response, each).await
    }

    /// The passwords by which somebody logs in.
    pub async fn passwords(&self, login: &str) -> Result<Vec<PasswordView>, ClientError> {
        self.ask("GET", &format!("/v1/passwords?login={}", percent_encoded(login))).await
    }

    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.ask("GET", "/v1/stats").await
    }

    /// Has the process read its configuration again; `Refused` says why nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.ask("POST", "/process/reload").await
    }

    /// Has nothing of the queue deleted until the snapshot ends.
    pub async fn take_snapshot(&self) -> Result<Snapshot, ClientError> {
        self.ask("POST", "/process/snapshot").await
    }

    /// Makes a snapshot last for another while; fails when it has ended.
    pub async fn keep_snapshot(&self, id: u64) -> Result<(), ClientError> {
        let Kept {} = self.ask("POST", &format!("/process/snapshot/{id}/keep")).await?;
        Ok(())
    }

    /// Ends a snapshot; fails when it had ended before.
    pub async fn end_snapshot(&self, id: u64) -> Result<(), ClientError> {
        let Kept {} = self.ask("POST", &format!("/process/snapshot/{id}/end")).await?;
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(&self, method: &str, path: &str) -> Result<T, ClientError> {
        let response = self.send(method, path, Bytes::new()).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&body)?)
    }

    /// One request on a connection of its own; anything but success is `Refused`.
    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let not_running = |source| ClientError::NotRunning { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(not_running)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.parse().unwrap_or_default();
        *request.uri_mut() = path.parse().map_err(|_| ClientError::Refused(path.to_owned()))?;
        let headers = request.headers_mut();
        headers.insert("host", hyper::header::HeaderValue::from_static("postrider"));
        headers.insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(connection);
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let body = response.into_body().collect().await?.to_bytes();
        Err(ClientError::Refused(String::from_utf8_lossy(&body).into_owned()))
    }
}

/// The fields of a query as `?a=b&c=d`, percent-encoded.
fn query_string(query: &Query) -> Result<String, serde_json::Error> {
    let serde_json::Value::Object(fields) = serde_json::to_value(query)? else {
        return Ok(String::new());
    };
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{name}={}", percent_encoded(&text))
        })
        .collect();
    Ok(if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) })
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(b).into(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

async fn read_lines<T: DeserializeOwned>(
    response: Response<Incoming>,
    mut each: impl FnMut(T),
) -> Result<(), ClientError> {
    let (mut body, mut buffered) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        buffered.extend_from_slice(&data);
        while let Some(end) = buffered.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = buffered.drain(..=end).collect();
            each(parse_line(&line)?);
        }
        if buffered.len() > LINE_OCTETS_MAX {
            return Err(ClientError::LongLine);
        }
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Failure {
    error: String,
}

fn parse_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, ClientError> {
    match serde_json::from_slice::<Failure>(line) {
        Ok(failure) => Err(ClientError::Refused(failure.error)),
        Err(_) => Ok(serde_json::from_slice(line)?),
    }
}
