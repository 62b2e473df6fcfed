//! One request to the collector: on our HTTP and TLS, and on the process's tokio runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::config::{Config, TraceError};

/// From the connection to the last octet of the answer.
const REQUEST: Duration = Duration::from_secs(10);
const ANSWER_BYTES: usize = 64 << 10;

/// The exporter calls it from a thread of its own, which has no runtime.
#[derive(Debug)]
pub(super) struct Collector {
    runtime: Handle,
    tasks: TaskTracker,
    tls: Arc<ClientConfig>,
    /// What was logged last.
    is_down: AtomicBool,
}

impl Collector {
    pub(super) fn new(config: &Config) -> Result<Self, TraceError> {
        Ok(Self {
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            tls: Arc::new(tls(config)?),
            is_down: AtomicBool::new(false),
        })
    }

    fn tell(&self, failure: Option<&dyn std::fmt::Display>) {
        let was_down = self.is_down.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_down => {
                tracing::warn!(event = "collector_down", %error, "spans are lost");
            }
            None if was_down => tracing::info!(event = "collector_up", "spans are taken again"),
            Some(_) | None => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let tls = self.tls.clone();
        let exchange = async move { timeout(REQUEST, exchange(tls, request)).await };
        let answer = match self.tasks.spawn_on(exchange, &self.runtime).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(elapsed)) => Err(elapsed.into()),
            Err(ended) => Err(ended.into()),
        };
        match &answer {
            Ok(response) if response.status().is_success() => self.tell(None),
            Ok(response) => self.tell(Some(&format_args!("status {}", response.status()))),
            Err(error) => self.tell(Some(error)),
        }
        answer
    }
}

fn tls(config: &Config) -> Result<ClientConfig, TraceError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = &config.ca_file {
        let refused = |reason: String| TraceError::CaFile { path: path.clone(), reason };
        let certificates = CertificateDer::pem_file_iter(path);
        for certificate in certificates.map_err(|error| refused(error.to_string()))? {
            let certificate = certificate.map_err(|error| refused(error.to_string()))?;
            roots.add(certificate).map_err(|error| refused(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

async fn exchange(
    tls: Arc<ClientConfig>,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let is_tls = request.uri().scheme_str() == Some("https");
    let host = request.uri().host().ok_or("no host")?.trim_matches(['[', ']']).to_owned();
    let port = request.uri().port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    if is_tls {
        let stream = TlsConnector::from(tls).connect(ServerName::try_from(host)?, tcp).await?;
        send(stream, request).await
    } else {
        send(tcp, request).await
    }
}

async fn send<S>(stream: S, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = of_origin(request)?;
    // The sender is dropped with the answer, which ends the connection.
    let answer = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
        Ok::<_, HttpError>(Response::from_parts(head, body))
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

/// In origin form, with a Host (RFC 9112 §3.2).
fn of_origin(request: Request<Bytes>) -> Result<Request<Full<Bytes>>, HttpError> {
    let mut request = request.map(Full::new);
    let authority = request.uri().authority().ok_or("no authority")?.as_str();
    let authority = HeaderValue::try_from(authority)?;
    request.headers_mut().insert(HOST, authority);
    let path = request.uri().path_and_query().cloned().ok_or("no path")?;
    *request.uri_mut() = Uri::from(path);
    Ok(request)
}
