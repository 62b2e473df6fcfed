//! A collector: takes spans by OTLP over HTTP with protobuf, and keeps them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A span as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// `service.name` of the process.
    pub service: String,
    pub name: String,
    /// In hexadecimal, as the next two.
    pub trace_id: String,
    pub span_id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    /// Trace ids of its links.
    pub links: Vec<String>,
    pub attributes: Vec<(String, String)>,
    /// How many events there are within.
    pub events: usize,
}

impl Span {
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct Kept {
    spans: Vec<Span>,
    /// `path authorization` of each request.
    requests: Vec<String>,
}

/// A running collector; dropped, it stops.
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _accepting: JoinSet<()>,
}

impl Collector {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shared = Arc::clone(&kept);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&shared);
                let service = service_fn(move |request| take(Arc::clone(&kept), request));
                let connection = http1::Builder::new();
                let connection = connection.serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { drop(connection.await) });
            }
        });
        Ok(Self { address, kept, _accepting: accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn spans(&self) -> Vec<Span> {
        self.kept.lock().expect("no panic holding it").spans.clone()
    }

    /// Path and `authorization` of each request.
    pub fn requests(&self) -> Vec<String> {
        self.kept.lock().expect("no panic holding it").requests.clone()
    }
}

async fn take(kept: Arc<Mutex<Kept>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let authorization = request.headers().get("authorization");
    let authorization = authorization.map_or("none", |value| value.to_str().unwrap_or("bad"));
    let line = format!("{} {authorization}", request.uri().path());
    let body = request.into_body().collect().await?.to_bytes();
    let export = ExportTraceServiceRequest::decode(body)?;
    let mut kept = kept.lock().expect("no panic holding it");
    kept.requests.push(line);
    kept.spans.extend(spans(export));
    Ok(Response::new(Full::default()))
}

fn spans(export: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_process in export.resource_spans {
        let resource = of_process.resource.map(|it| attributes(it.attributes)).unwrap_or_default();
        let service = resource.iter().find(|(key, _)| key == "service.name");
        let service = service.map(|(_, name)| name.clone()).unwrap_or_default();
        let all = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(all.map(|span| Span {
            service: service.clone(),
            name: span.name,
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
            attributes: attributes(span.attributes),
            events: span.events.len(),
        }));
    }
    spans
}

fn attributes(pairs: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |pair: KeyValue| {
        let value = match pair.value.and_then(|any| any.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key, value)
    };
    pairs.into_iter().map(text).collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
