//! A server that takes mail by LMTP (RFC 2033), and the connections to it.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handover::Connection;
use smtp::client::{ClientConfig, SessionError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::metrics::Metrics;

mod config;
mod full;

pub(crate) use config::Endpoint;
pub use config::{LmtpConfig, LmtpError};
pub(crate) use full::Full;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// For each address of a name.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection waits for the next message.
const KEEP: Duration = Duration::from_secs(3);
/// Of a lease, what is left for recording an outcome.
const LEASE_MARGIN: Duration = Duration::from_secs(60);

/// What octets go over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync + fmt::Debug {}

impl Duplex for TcpStream {}
impl Duplex for UnixStream {}

/// An open session, ready for a transaction.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection<Box<dyn Duplex>>,
    /// `host[address]:port` as in Postfix's log, or the socket.
    pub(crate) relay: Box<str>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("connect to {relay}")]
    Connect { relay: String, source: io::Error },
    #[error("connect to {relay} took too long")]
    TimedOut { relay: String },
    #[error("session with {relay}")]
    Session { relay: String, source: SessionError },
}

#[derive(Debug)]
struct Idle {
    session: Session,
    since: Instant,
}

/// The server. As many connections are open as messages are handed over, and none longer than
/// [`KEEP`] for nothing.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: Endpoint,
    client: ClientConfig,
    lease: Duration,
    idle: Mutex<Vec<Idle>>,
    full: Full,
    metrics: Metrics,
}

impl Server {
    pub(crate) fn new(
        endpoint: Endpoint,
        client: ClientConfig,
        lease: Duration,
        full: Full,
        metrics: Metrics,
    ) -> Self {
        Self { endpoint, client, lease, idle: Mutex::default(), full, metrics }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn full(&self) -> &Full {
        &self.full
    }

    /// The longest that a step may take without the lease being renewed.
    pub(crate) fn limit(&self) -> Duration {
        self.lease.saturating_sub(LEASE_MARGIN)
    }

    /// A session from before, on which nothing came in the meantime, not even its end.
    pub(crate) fn take_idle(&self) -> Option<Session> {
        let mut idle = self.lock();
        while let Some(Idle { mut session, since }) = idle.pop() {
            if since.elapsed() < KEEP && session.connection.is_quiet() {
                self.metrics.connections_reused.inc();
                return Some(session);
            }
        }
        None
    }

    /// Each of its steps has its own time; together they have [`Self::limit`].
    pub(crate) async fn open(&self) -> Result<Session, OpenError> {
        let late = |_| OpenError::TimedOut { relay: self.endpoint.to_string() };
        timeout(self.limit(), self.opened()).await.map_err(late)?
    }

    async fn opened(&self) -> Result<Session, OpenError> {
        let relay = || self.endpoint.to_string();
        let (stream, reached) = timeout(CONNECT_TIMEOUT, self.connected())
            .await
            .map_err(|_| OpenError::TimedOut { relay: relay() })?
            .map_err(|source| OpenError::Connect { relay: relay(), source })?;
        self.metrics.connections.inc();
        let mut connection = Connection::new(stream, self.client.clone());
        let ready = connection.ready().await;
        ready.map_err(|source| OpenError::Session { relay: relay(), source })?;
        Ok(Session { connection, relay: reached })
    }

    async fn connected(&self) -> io::Result<(Box<dyn Duplex>, Box<str>)> {
        match &self.endpoint {
            Endpoint::Tcp { host, port } => {
                let stream = connect(host, *port).await?;
                // Costs a delay at worst, so its failure is no reason to give up.
                let _ = stream.set_nodelay(true);
                let relay = format!("{host}[{}]:{port}", stream.peer_addr()?.ip());
                Ok((Box::new(stream), relay.into()))
            }
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                Ok((Box::new(stream), self.endpoint.to_string().into()))
            }
        }
    }

    /// Keeps a session for the next message, if it may have one.
    pub(crate) async fn put_away(&self, session: Session) {
        if session.connection.is_idle() {
            self.lock().push(Idle { session, since: Instant::now() });
        } else {
            session.connection.quit().await;
        }
    }

    /// Closes, for ever, sessions that nobody needed again, and forgets what is not true any more.
    pub(crate) async fn sweep(&self) {
        tokio::join!(self.close_old(), self.full.keep_true());
    }

    async fn close_old(&self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            self.close_idle(KEEP).await;
        }
    }

    /// Closes what has been idle for so long.
    pub(crate) async fn close_idle(&self, age: Duration) {
        let is_old = |idle: &mut Idle| idle.since.elapsed() >= age;
        let old: Vec<Idle> = self.lock().extract_if(.., is_old).collect();
        for idle in old {
            idle.session.connection.quit().await;
        }
    }

    /// No holder panics half way: each does one step.
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of a name's addresses that answers: one that is silent does not hide the others.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup_host((host, port)).await? {
        match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}
