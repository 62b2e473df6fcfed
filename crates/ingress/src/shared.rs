//! What all sessions share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use domains::{Absence, Claimant, FullMailboxes, Logins, Srs, Table};
use queue::Queue;
use smtp::Scram;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::Services;
use crate::auth::Authenticator;
use crate::budget::Budget;
use crate::call_ahead::CallAheads;
use crate::clients::Clients;
use crate::config::{Config, LimitsConfig};
use crate::last_use::Uses;
use crate::listener::Admission;
use crate::metrics::Metrics;
use crate::port::Port;
use crate::replies::{self, Canned};
use crate::sending::Sending;

/// Settings, handles and limits of the role.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) limits: LimitsConfig,
    pub(crate) message_lifetime: Duration,
    pub(crate) times: Times,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) domains: Arc<ArcSwapOption<Table>>,
    pub(crate) absence: Arc<dyn Absence>,
    pub(crate) full: Arc<FullMailboxes>,
    pub(crate) call_aheads: Arc<CallAheads>,
    pub(crate) logins: Arc<dyn Logins>,
    pub(crate) srs: Option<Arc<Srs>>,
    pub(crate) metrics: Metrics,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) sending: Sending,
    pub(crate) uses: Arc<Uses>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) budget: Budget,
    /// In the order of the listeners in the configuration.
    ports: Vec<Arc<Port>>,
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
    pub(crate) fn new(config: &Config, ports: Vec<Arc<Port>>, services: Services) -> Self {
        let Services {
            queue,
            domains,
            absence,
            full,
            call_ahead,
            logins,
            pool,
            last_uses,
            srs,
            metrics,
        } = services;
        let limits = config.limits.clone();
        let memory_wait = Duration::from_secs(limits.memory_wait_seconds);
        Self {
            message_lifetime: Duration::from_secs(config.message_lifetime_seconds),
            times: Times::new(&limits),
            queue,
            domains,
            absence,
            full,
            call_aheads: Arc::new(CallAheads::new(call_ahead, metrics.clone())),
            logins,
            srs,
            authenticator: Arc::new(Authenticator::new(&config.auth)),
            sending: Sending::new(pool, config.sending_limits.clone()),
            uses: Arc::new(Uses::new(last_uses)),
            admission: Arc::new(Admission::new(limits.connections_max)),
            clients: Arc::default(),
            budget: Budget::new(
                limits.memory_budget_bytes,
                limits.memory_per_client_bytes,
                memory_wait,
                metrics.content_memory_bytes.clone(),
            ),
            metrics,
            ports,
            limits,
        }
    }

    /// The same with another configuration, for sessions that begin from now on. What bounds all
    /// sessions together is shared with those before, and as it was set up.
    pub(crate) fn renewed(&self, config: &Config, ports: Vec<Arc<Port>>) -> Self {
        Self {
            message_lifetime: Duration::from_secs(config.message_lifetime_seconds),
            times: Times::new(&config.limits),
            limits: config.limits.clone(),
            sending: self.sending.renewed(config.sending_limits.clone()),
            ports,
            ..self.clone()
        }
    }

    /// Whether somebody could log in by SCRAM.
    pub(crate) fn scram(&self) -> Scram {
        let is_offered = self.domains.load().as_ref().is_some_and(|table| table.offers_scram());
        if is_offered { Scram::Offered } else { Scram::Unavailable }
    }

    /// What the connections of a listener have in common.
    pub(crate) fn port(&self, listener: usize) -> Arc<Port> {
        Arc::clone(&self.ports[listener])
    }

    /// Who logs in, by which table.
    pub(crate) async fn claimant(
        &self,
        login: &str,
        client: SocketAddr,
    ) -> Result<(Arc<Table>, Claimant), Canned> {
        let table = self.domains.load_full().ok_or(replies::AUTH_UNAVAILABLE)?;
        match self.logins.find(&table, login).await {
            Ok(claimant) => Ok((table, claimant)),
            Err(error) => {
                tracing::warn!(event = "auth_unavailable", %client, %error);
                self.metrics.authenticated("unavailable");
                Err(replies::AUTH_UNAVAILABLE)
            }
        }
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
