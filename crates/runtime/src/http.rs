//! `/healthz`, `/readyz` and `/metrics`.

mod connections;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::connections::serve;
use crate::readiness::Readiness;

/// What one connection may last; a scraper makes a new one.
const LASTING: Duration = Duration::from_secs(60);

/// Where health and metrics are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Nothing secret is served; still, the default is loopback.
    pub address: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 8025)) }
    }
}

/// The endpoint, bound and not yet serving.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    state: Shared,
}

#[derive(Clone, Debug)]
struct Shared {
    readiness: Readiness,
    registry: Arc<Registry>,
}

impl Http {
    pub async fn bind(
        config: Config,
        readiness: Readiness,
        registry: Registry,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(config.address).await?;
        Ok(Self { listener, state: Shared { readiness, registry: Arc::new(registry) } })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn serve(self, stop: CancellationToken) {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.state);
        serve(self.listener, router, LASTING, stop).await;
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let missing = shared.readiness.missing();
    match missing.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
    }
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::new();
    // Writing into a string cannot fail; a collector that does leaves a short page, seen as such.
    let _ = encode(&mut text, &shared.registry);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_metrics() {
        let readiness = Readiness::default();
        readiness.not_ready("domains", "no table yet");
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("mails", "Mails", counter.clone());
        counter.inc();
        let config = Config { address: "127.0.0.1:0".parse().unwrap() };
        let http = Http::bind(config, readiness.clone(), registry).await.unwrap();
        let address = http.address().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(http.serve(stop.clone()));
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let not_ready = fetch(address, "/readyz").await;
        assert!(not_ready.starts_with("HTTP/1.1 503"), "{not_ready}");
        assert!(not_ready.ends_with("domains: no table yet\n"));
        readiness.ready("domains");
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("\nmails_total 1\n"));
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn silent_clients_hold_nothing_up() {
        let config = Config { address: "127.0.0.1:0".parse().unwrap() };
        let http = Http::bind(config, Readiness::default(), Registry::default()).await.unwrap();
        let address = http.address().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(http.serve(stop.clone()));
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"GET /metrics HTTP/1.1\r\nHo").await.unwrap();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), tasks.join_next());
        assert!(ended.await.is_ok());
    }
}
