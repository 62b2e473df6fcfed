//! The monitoring port of a server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A stopped server accepts connections and never answers.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Asks one server about itself.
#[derive(Debug, Clone, Copy)]
pub struct Monitor {
    address: SocketAddr,
}

impl Monitor {
    pub(super) fn new(port: u16) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Any program that serves pages about itself.
    pub fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether JetStream is ready: its meta leader is known, and all its streams and consumers
    /// here are current.
    pub async fn is_healthy(&self) -> bool {
        matches!(self.get("/healthz").await, Ok((StatusCode::OK, _)))
    }

    /// What a page like `/varz` or `/jsz?streams=1` holds.
    pub async fn json(&self, page: &str) -> Result<Value> {
        let (status, body) = self.get(page).await?;
        ensure!(status == StatusCode::OK, "{status} from {}{page}", self.url());
        Ok(serde_json::from_slice(&body)?)
    }

    /// The text of a page.
    pub async fn text(&self, page: &str) -> Result<String> {
        let (status, body) = self.get(page).await?;
        ensure!(status == StatusCode::OK, "{status} from {}{page}", self.url());
        Ok(String::from_utf8(body.to_vec())?)
    }

    async fn get(&self, page: &str) -> Result<(StatusCode, Bytes)> {
        let answer = tokio::time::timeout(ANSWER_MAX, self.exchange(page)).await;
        answer.with_context(|| format!("no answer from {}{page}", self.url()))?
    }

    async fn exchange(&self, page: &str) -> Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let request = Request::get(page).header("host", self.address.to_string());
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}
