//! What all sessions share.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use domains::{Absence, Logins, Srs, Table};
use mail_types::Host;
use queue::Queue;
use smtp::{ListenerKind, ServerConfig, StartTls};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::Services;
use crate::auth::Authenticator;
use crate::budget::Budget;
use crate::call_ahead::CallAheads;
use crate::clients::Clients;
use crate::config::{Config, LimitsConfig};
use crate::listener::Admission;
use crate::metrics::Metrics;

/// Settings, handles and limits of the role.
pub(crate) struct Shared {
    /// Our name.
    pub(crate) host: Host,
    pub(crate) limits: LimitsConfig,
    pub(crate) message_lifetime: Duration,
    pub(crate) times: Times,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) domains: Arc<ArcSwapOption<Table>>,
    pub(crate) absence: Arc<dyn Absence>,
    pub(crate) call_aheads: CallAheads,
    pub(crate) logins: Arc<dyn Logins>,
    pub(crate) srs: Option<Arc<Srs>>,
    pub(crate) metrics: Metrics,
    pub(crate) authenticator: Authenticator,
    pub(crate) admission: Admission,
    pub(crate) clients: Arc<Clients>,
    pub(crate) budget: Budget,
    acceptor: Option<TlsAcceptor>,
    relay: Arc<ServerConfig>,
    submission: Arc<ServerConfig>,
    submissions: Arc<ServerConfig>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) command: Duration,
    pub(crate) content: Duration,
    pub(crate) content_total: Duration,
    pub(crate) write: Duration,
    pub(crate) handshake: Duration,
    /// One step of the store. A client waits 10 minutes for the reply to its final dot
    /// (RFC 5321 §4.5.3.2.6); three tries must fit.
    pub(crate) store: Duration,
}

impl Shared {
    pub(crate) fn new(
        config: &Config,
        host: Host,
        services: Services,
        acceptor: Option<TlsAcceptor>,
    ) -> Self {
        let Services { queue, domains, absence, call_ahead, logins, srs, metrics } = services;
        let limits = config.limits.clone();
        let starttls = if acceptor.is_some() { StartTls::Offered } else { StartTls::Unavailable };
        let session = |kind| {
            Arc::new(ServerConfig {
                kind,
                // In A-labels: replies are ASCII (RFC 6531 §3.7.1).
                hostname: host.to_string(),
                starttls,
                limits: config.session_limits(),
            })
        };
        let memory_wait = Duration::from_secs(limits.memory_wait_seconds);
        Self {
            message_lifetime: Duration::from_secs(config.message_lifetime_seconds),
            times: Times::new(&limits),
            queue,
            domains,
            absence,
            call_aheads: CallAheads::new(call_ahead, metrics.clone()),
            logins,
            srs,
            authenticator: Authenticator::new(&config.auth),
            admission: Admission::new(limits.connections_max),
            clients: Arc::default(),
            budget: Budget::new(
                limits.memory_budget_bytes,
                limits.memory_per_client_bytes,
                memory_wait,
                metrics.content_memory_bytes.clone(),
            ),
            metrics,
            acceptor,
            relay: session(ListenerKind::Relay),
            submission: session(ListenerKind::Submission),
            submissions: session(ListenerKind::Submissions),
            limits,
            host,
        }
    }

    pub(crate) fn session_config(&self, kind: ListenerKind) -> Arc<ServerConfig> {
        Arc::clone(match kind {
            ListenerKind::Relay => &self.relay,
            ListenerKind::Submission => &self.submission,
            ListenerKind::Submissions => &self.submissions,
        })
    }

    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor.clone()
    }

    /// A handshake within its time; failures are counted and logged.
    pub(crate) async fn shake_hands(
        &self,
        acceptor: TlsAcceptor,
        tcp: TcpStream,
    ) -> Option<Box<TlsStream<TcpStream>>> {
        let client = tcp.peer_addr().ok();
        match tokio::time::timeout(self.times.handshake, acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => {
                self.metrics.shook_hands("done");
                Some(Box::new(stream))
            }
            Ok(Err(error)) => {
                self.metrics.shook_hands("failed");
                tracing::info!(event = "tls_handshake_failed", ?client, %error);
                None
            }
            Err(_) => {
                self.metrics.shook_hands("timeout");
                None
            }
        }
    }
}

impl Times {
    fn new(limits: &LimitsConfig) -> Self {
        Self {
            command: Duration::from_secs(limits.command_timeout_seconds),
            content: Duration::from_secs(limits.content_timeout_seconds),
            content_total: Duration::from_secs(limits.content_total_seconds),
            write: Duration::from_secs(limits.write_timeout_seconds),
            handshake: Duration::from_secs(limits.tls_handshake_timeout_seconds),
            store: Duration::from_secs(120),
        }
    }
}
