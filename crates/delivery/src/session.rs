//! Opening a session with a host: connection, greeting, TLS, authentication.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domains::Gateway;
use handover::{Authentication, Connection};
use mail_types::Host;
use smtp::client::{ClientConfig, Credentials, SessionError};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::config::{Login, Route, Settings, Way, credentials};
use crate::failure::HopFailure;
use crate::metrics::Metrics;
use crate::sources::Source;
use crate::stream::Stream;
use crate::tls::{TlsMode, server_name};

/// An address of a host of the destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The host's name, or its address when the route or the recipient gave one.
    pub(crate) host: String,
    pub(crate) address: SocketAddr,
}

impl Target {
    /// `host[address]:port`, as in Postfix's log.
    pub(crate) fn relay(&self) -> String {
        format!("{}[{}]:{}", self.host, self.address.ip(), self.address.port())
    }
}

/// An open session, ready for a transaction.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Box<Connection<Stream>>,
    pub(crate) host: Box<str>,
    pub(crate) relay: Box<str>,
    pub(crate) tls: Option<Box<str>>,
    /// Why it is in clear although the host offers TLS.
    pub(crate) tls_failure: Option<Box<str>>,
    /// A short message may go out in one piece.
    pub(crate) takes_whole: bool,
    /// Whom it is with.
    pub(crate) peer: IpAddr,
    /// From which of our sources, if there are any of that family.
    pub(crate) source: Option<IpAddr>,
    /// The server of a gateway domain that it was opened to.
    pub(crate) gateway: Option<Arc<Gateway>>,
    /// Transactions begun on it.
    pub(crate) transactions: u32,
}

impl Session {
    /// Whether another transaction may begin: nothing came in the meantime, not even the end.
    pub(crate) fn is_reusable(&mut self) -> bool {
        self.connection.is_idle() && self.connection.is_quiet()
    }

    /// Whether it leads where the route leads: a domain's own server may be another by now.
    pub(crate) fn is_on(&self, route: &Route) -> bool {
        match &route.way {
            Way::Gateway(gateway) => self.gateway.as_ref() == Some(gateway),
            Way::Exchangers(_) | Way::Smarthost(_) => self.gateway.is_none(),
            // No session leads there.
            Way::Mailboxes => false,
        }
    }
}

/// What TLS came to.
enum Secured {
    Done(Box<Connection<Stream>>),
    /// It failed in a way that leaves the connection unusable; a new one may do without.
    Failed(String),
}

/// Opens sessions. Borrowed for one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opener<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) name: &'a Host,
    /// By whom the source is chosen.
    pub(crate) sender: &'a str,
    pub(crate) metrics: &'a Metrics,
}

impl<'a> Opener<'a> {
    fn source(self, target: &Target) -> Option<&'a Source> {
        self.settings.sources.pick(self.sender, target.address.ip())
    }

    /// Opens a session with the TLS and the credentials that the route wants.
    pub(crate) async fn open(self, target: &Target, route: &Route) -> Result<Session, HopFailure> {
        let mut tls_failure = None;
        let connection = match self.secured(target, route).await? {
            Secured::Done(connection) => connection,
            Secured::Failed(cause) if route.tls.is_mandatory() => {
                return Err(HopFailure::TlsFailed { relay: target.relay(), cause });
            }
            Secured::Failed(cause) => {
                warn!(relay = target.relay(), cause, "TLS failed, going on in clear");
                tls_failure = Some(cause.into());
                self.greeted(target).await?
            }
        };
        let mut session = Session {
            host: target.host.as_str().into(),
            relay: target.relay().into(),
            tls: connection.stream().tls_description(),
            tls_failure,
            takes_whole: route.chunking && connection.capabilities().takes_whole(),
            connection,
            peer: target.address.ip(),
            source: self.source(target).map(|source| source.address),
            gateway: route.way.gateway().cloned(),
            transactions: 0,
        };
        if let Some(login) = &route.login {
            let host = target.host.clone();
            let credentials = login.credentials(&host).await?;
            let done = session.connection.authenticate(&credentials).await;
            match done.map_err(|error| failed(target, error))? {
                Authentication::Done => {}
                Authentication::NotOffered => return Err(HopFailure::AuthNotOffered { host }),
                Authentication::Refused(reply) => {
                    return Err(HopFailure::AuthRefused { host, reply });
                }
            }
        }
        Ok(session)
    }

    async fn greeted(self, target: &Target) -> Result<Box<Connection<Stream>>, HopFailure> {
        let limit = Duration::from_secs(self.settings.config.connect_timeout_seconds);
        let source = self.source(target);
        let connecting = timeout(limit, connect(source, target.address));
        let stream = match connecting.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(cause)) => return Err(HopFailure::Connect { relay: target.relay(), cause }),
            Err(_) => return Err(HopFailure::ConnectTimedOut { relay: target.relay() }),
        };
        // Costs a delay at worst, so its failure is no reason to give up.
        let _ = stream.set_nodelay(true);
        self.metrics.connections.inc();
        let name = source.map_or(self.name, |source| &source.name);
        let mut config = ClientConfig::new(name.clone());
        config.timeouts = self.settings.timeouts;
        let mut connection = Box::new(Connection::new(Stream::Clear(stream), config));
        connection.ready().await.map_err(|error| failed(target, error))?;
        Ok(connection)
    }

    async fn secured(self, target: &Target, route: &Route) -> Result<Secured, HopFailure> {
        let mode = route.tls;
        let mut connection = self.greeted(target).await?;
        if mode == TlsMode::None {
            return Ok(Secured::Done(connection));
        }
        if !connection.capabilities().starttls {
            if mode.is_mandatory() {
                return Err(HopFailure::TlsNotOffered { relay: target.relay() });
            }
            return Ok(Secured::Done(connection));
        }
        let refusal = connection.start_tls().await.map_err(|error| failed(target, error))?;
        match refusal {
            Some(reply) if mode.is_mandatory() => Ok(Secured::Failed(reply.to_string())),
            Some(_) => Ok(Secured::Done(connection)),
            None => self.handshake(connection, target, route).await,
        }
    }

    async fn handshake(
        self,
        connection: Box<Connection<Stream>>,
        target: &Target,
        route: &Route,
    ) -> Result<Secured, HopFailure> {
        let config = match self.settings.tls.of_route(route) {
            Ok(config) => config,
            Err(error) => return Ok(Secured::Failed(error.to_string())),
        };
        let connector = TlsConnector::from(config);
        let name = server_name(&target.host, target.address.ip());
        let (stream, mut session) = connection.into_parts();
        match stream.shake_hands(&connector, name, session.timeout()).await {
            Ok(stream) => {
                session.tls_started();
                let mut connection = Box::new(Connection::resumed(stream, session));
                connection.ready().await.map_err(|error| failed(target, error))?;
                Ok(Secured::Done(connection))
            }
            Err(error) => {
                self.metrics.tls_handshakes_failed.inc();
                Ok(Secured::Failed(error.to_string()))
            }
        }
    }
}

async fn connect(source: Option<&Source>, address: SocketAddr) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(address).await };
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(source.address, 0))?;
    socket.connect(address).await
}

impl Login {
    /// Reads the file that the password is in, if it is in one.
    async fn credentials(&self, host: &str) -> Result<Credentials, HopFailure> {
        let (user, password) = match self {
            Self::Known(credentials) => return Ok(credentials.clone()),
            Self::InFile { user, password } => (user, password.as_deref()),
        };
        let host = host.to_owned();
        let Some(path) = password else {
            warn!(
                host,
                "delivery.gatewayPasswordsDir is not set, and a gateway domain has a login"
            );
            return Err(HopFailure::PasswordUnknown { host });
        };
        match tokio::fs::read_to_string(path).await {
            Ok(text) => Ok(credentials(user, &text)),
            Err(error) => {
                let file = path.display();
                warn!(host, %file, %error, "the password of a gateway domain cannot be read");
                Err(HopFailure::PasswordUnknown { host })
            }
        }
    }
}

fn failed(target: &Target, error: SessionError) -> HopFailure {
    HopFailure::Session { host: target.host.clone(), error }
}
