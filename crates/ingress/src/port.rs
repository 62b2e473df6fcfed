//! What the connections of a listener have in common.

use std::sync::Arc;

use mail_types::Host;
use smtp::{ListenerKind, Scram, ServerConfig, StartTls};
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Listener};
use crate::proxy::Proxies;
use crate::tls::{Authorities, Certificates, TlsError};

/// A listener's settings.
pub(crate) struct Port {
    pub(crate) kind: ListenerKind,
    /// Our name there: in the greeting, in replies and in trace fields.
    pub(crate) host: Host,
    without_scram: Arc<ServerConfig>,
    with_scram: Arc<ServerConfig>,
    /// Who says who the client is, where it is not whom we are connected with.
    pub(crate) proxies: Option<Proxies>,
    /// Whose certificates are those of clients that we know; without it none is asked for.
    pub(crate) authorities: Option<Arc<Authorities>>,
    acceptor: Option<TlsAcceptor>,
}

impl Port {
    /// Those of all listeners, in their order. `host` is our name where one has none of its own.
    pub(crate) fn all(
        config: &Config,
        host: &Host,
        certificates: Option<&Arc<Certificates>>,
    ) -> Result<Vec<Arc<Self>>, TlsError> {
        let port = |listener| Self::new(config, listener, host, certificates).map(Arc::new);
        config.listeners.iter().map(port).collect()
    }

    fn new(
        config: &Config,
        listener: &Listener,
        host: &Host,
        certificates: Option<&Arc<Certificates>>,
    ) -> Result<Self, TlsError> {
        let kind = listener.kind.into();
        let host = listener.host().unwrap_or_else(|| host.clone());
        let authorities = listener.client_certificates.as_ref();
        let authorities = authorities.map(|asked| Authorities::load(&asked.ca_file)).transpose()?;
        let acceptor = certificates.map(|own| own.acceptor(authorities.as_ref()));
        let starttls = if acceptor.is_some() { StartTls::Offered } else { StartTls::Unavailable };
        let session = |scram| {
            Arc::new(ServerConfig {
                kind,
                // In A-labels: replies are ASCII (RFC 6531 §3.7.1).
                hostname: host.to_string(),
                starttls,
                scram,
                limits: config.session_limits(),
            })
        };
        let (without_scram, with_scram) = (session(Scram::Unavailable), session(Scram::Offered));
        let proxies = listener.proxy_protocol.as_ref();
        let proxies = proxies.map(|proxies| Proxies::new(proxies.from.clone()));
        Ok(Self { kind, host, without_scram, with_scram, proxies, authorities, acceptor })
    }

    /// What a session is told.
    pub(crate) fn session(&self, scram: Scram) -> Arc<ServerConfig> {
        Arc::clone(match scram {
            Scram::Offered => &self.with_scram,
            Scram::Unavailable => &self.without_scram,
        })
    }

    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor.clone()
    }
}
