//! The ingress role: takes mail in, decides whether, and hands it to the queue.
//!
//! **Queues.** It knows the queue's contract only. A message is answered `250` after
//! [`queue::Draft::commit`] returned `Ok` and never before; a store that is full is a `452`, one
//! that is sick a `451`.
//!
//! **Strategies.** One task per connection. While a client is silent its session holds no buffer;
//! replies of a pipelined group go out in one write; content is passed on as it comes, header
//! fields excepted. What is in memory over all sessions is bounded by a budget, waited for with a
//! time limit. Permits to serve are taken before a connection is accepted.
//!
//! **Security.** No network address is trusted: relaying is for those who authenticated, sender and
//! From are bound to their identity, recipients are checked at RCPT against the domain table.
//! For a mailbox that is known to be full, or too full for the message, it is `452` or `552`, as
//! its owner wishes.
//! Without a complete table the answer is `451`, and so it is for a recipient that is not in it
//! until that is proven to be no lag. Recipients whom only the server of a gateway domain knows are
//! accepted when that says so. Who logs in sends to so many recipients an hour and a day, as
//! `senders` counts them. Passwords are checked under TLS only, few at a
//! time, as slowly for users that do not exist. See `smtp` for framing.
//!
//! **Diagnostics.** One event `accepted` or `refused` per message, counters for every limit.
//!
//! It deliberately does not know delivery, DNS, retries or where mailboxes lie.

mod auth;
mod budget;
mod call_ahead;
mod clients;
pub mod config;
mod deadline;
mod last_use;
mod listener;
mod metrics;
mod policy;
mod port;
mod proxy;
mod replies;
mod sending;
mod session;
mod shared;
mod stream;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use domains::{Absence, CallAhead, FullMailboxes, Logins, Srs, Table};
use mail_types::Host;
use queue::Queue;
use senders::{LastUseStore, Pool};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::auth::{Authenticator, Hashes, Verdict};
pub use self::clients::ClientKey;
pub use self::config::{
    CertificateFiles, ClientCertificates, Config, ConfigError, Kind, Listener, ProxyProtocol,
};
pub use self::last_use::Uses;
pub use self::metrics::Metrics;
pub use self::tls::{TlsError, read_authorities, read_certificate};

use self::listener::{Listening, Permit, accept};
use self::metrics::End;
use self::port::Port;
use self::replies::Canned;
use self::session::Session;
use self::shared::Shared;
use self::stream::Stream;
use self::tls::{Certificates, Loaded};

/// What the role works with.
pub struct Services {
    pub queue: Arc<dyn Queue>,
    /// `None` until a complete table is known: recipients get 451 meanwhile.
    pub domains: Arc<ArcSwapOption<Table>>,
    /// Asked before a recipient is refused because the table lacks it.
    pub absence: Arc<dyn Absence>,
    /// The mailboxes with little room or none, as far as is known.
    pub full: Arc<FullMailboxes>,
    /// Asked before a recipient is accepted whom only the domain's own server knows.
    pub call_ahead: Arc<dyn CallAhead>,
    /// Asked who logs in.
    pub logins: Arc<dyn Logins>,
    /// Where the recipients of those who log in are counted.
    pub pool: Arc<dyn Pool>,
    /// Where it is kept when passwords were used last.
    pub last_uses: Arc<dyn LastUseStore>,
    /// Rewrites the reverse-path of what aliases lead elsewhere, and takes bounces of it.
    pub srs: Option<Arc<Srs>>,
    pub metrics: Metrics,
}

/// Why the role cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("a listener for submission needs a certificate; set tls.certificates")]
    NoCertificate,
    #[error("cannot listen on {address}; is it in use, or does the port need a privilege?")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// The role with its sockets bound; clients wait in the kernel until [`Ingress::serve`].
pub struct Ingress {
    shared: Arc<ArcSwap<Shared>>,
    listening: Vec<Listening>,
    certificates: Option<Arc<Certificates>>,
    reload: Duration,
    grace: Duration,
}

/// Changes the configuration of the role while it works.
#[derive(Clone)]
pub struct Live {
    shared: Arc<ArcSwap<Shared>>,
    certificates: Option<Arc<Certificates>>,
}

/// A configuration that can be put in force.
pub struct Change {
    shared: Shared,
    certificates: Option<Loaded>,
    live: Live,
}

impl Live {
    /// Checks the configuration and reads its certificates; changes nothing. What is set up once
    /// stays as it was: listeners, the number of connections, the budget of memory, and what
    /// checking passwords may cost.
    ///
    /// # Errors
    /// What is wrong.
    pub fn prepare(&self, config: &Config) -> Result<Change, StartError> {
        let host = config.validate()?;
        let certificates = match &self.certificates {
            Some(_) => Some(Loaded::read(certificate_files(config, &host)?)?),
            None => None,
        };
        let ports = Port::all(config, &host, self.certificates.as_ref())?;
        let shared = self.shared.load().renewed(config, ports);
        Ok(Change { shared, certificates, live: self.clone() })
    }
}

impl Change {
    /// Connections that are opened from now on are served by it.
    pub fn apply(self) {
        if let (Some(loaded), Some(certificates)) = (self.certificates, &self.live.certificates) {
            certificates.replace(loaded);
        }
        self.live.shared.store(Arc::new(self.shared));
    }
}

/// Binds and serves until `stop`, then ends within the grace of the configuration.
///
/// # Errors
/// Why it cannot start.
pub async fn run(
    config: Config,
    services: Services,
    stop: CancellationToken,
) -> Result<(), StartError> {
    Ingress::bind(&config, services)?.serve(stop).await;
    Ok(())
}

impl Ingress {
    /// Checks the configuration, reads the certificates and binds every address.
    ///
    /// # Errors
    /// What is wrong, with the field or the address.
    pub fn bind(config: &Config, services: Services) -> Result<Self, StartError> {
        let host = config.validate()?;
        let certificates = load_certificates(config, &host, &services.domains)?;
        if certificates.is_none() && config.listeners.iter().any(|l| l.kind != Kind::Relay) {
            return Err(StartError::NoCertificate);
        }
        let ports = Port::all(config, &host, certificates.as_ref())?;
        let mut listening = Vec::new();
        for (port, listener) in config.listeners.iter().enumerate() {
            for &address in &listener.addresses {
                let bound = Listening::bind(port, address)
                    .map_err(|source| StartError::Listen { address, source })?;
                listening.push(bound);
            }
        }
        Ok(Self {
            shared: Arc::new(ArcSwap::from_pointee(Shared::new(config, ports, services))),
            listening,
            certificates,
            reload: Duration::from_secs(config.tls.reload_seconds.max(1)),
            grace: Duration::from_secs(config.stop_grace_seconds),
        })
    }

    /// Where it listens: with port 0 in the configuration, the ports that were free.
    pub fn addresses(&self) -> Vec<(Kind, SocketAddr)> {
        let shared = self.shared.load();
        let kind = |listening: &Listening| shared.port(listening.port).kind.into();
        self.listening.iter().map(|listening| (kind(listening), listening.address)).collect()
    }

    /// Who checks passwords: whoever else does in this process shares its limits.
    pub fn authenticator(&self) -> Arc<Authenticator> {
        Arc::clone(&self.shared.load().authenticator)
    }

    /// Where uses of passwords are noted, which it writes while it serves: also those that others
    /// in this process see.
    pub fn uses(&self) -> Arc<Uses> {
        Arc::clone(&self.shared.load().uses)
    }

    /// By which its configuration is changed.
    pub fn live(&self) -> Live {
        Live { shared: Arc::clone(&self.shared), certificates: self.certificates.clone() }
    }

    /// Serves until `stop`: then accepts nobody, tells idle clients 421, and lets open transactions
    /// finish within the grace.
    pub async fn serve(self, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let (leave, abort) = (CancellationToken::new(), CancellationToken::new());
        if let Some(certificates) = &self.certificates {
            let fresh = Arc::clone(certificates).keep_fresh(self.reload, stop.clone());
            tracker.spawn(fresh);
            tracker.spawn(Arc::clone(certificates).follow_table(stop.clone()));
        }
        tracker.spawn(Arc::clone(&self.shared.load().uses).keep(leave.clone()));
        let door = Door {
            shared: Arc::clone(&self.shared),
            tracker: tracker.clone(),
            stop: stop.clone(),
            leave: leave.clone(),
            abort: abort.clone(),
        };
        door.keep(self.listening).await;
        stop.cancelled().await;
        // The listeners are closed: who is told to come again later is not let in here.
        leave.cancel();
        tracker.close();
        if tokio::time::timeout(self.grace, tracker.wait()).await.is_err() {
            abort.cancel();
            tracker.wait().await;
        }
    }
}

fn load_certificates(
    config: &Config,
    host: &Host,
    table: &Arc<ArcSwapOption<Table>>,
) -> Result<Option<Arc<Certificates>>, TlsError> {
    let files = certificate_files(config, host)?;
    if files.is_empty() {
        return Ok(None);
    }
    Certificates::load(files, Arc::clone(table)).map(Some)
}

fn certificate_files(config: &Config, host: &Host) -> Result<Vec<CertificateFiles>, TlsError> {
    let mut files = config.tls.certificates.clone();
    if let (true, Some(directory)) = (files.is_empty(), &config.tls.self_signed_directory) {
        files.push(tls::self_signed(directory, &host.to_string())?);
    }
    Ok(files)
}

/// What accepts connections.
#[derive(Clone)]
struct Door {
    shared: Arc<ArcSwap<Shared>>,
    tracker: TaskTracker,
    /// Nobody is let in any more.
    stop: CancellationToken,
    /// Clients are told to go.
    leave: CancellationToken,
    /// Sessions end, whatever they are doing.
    abort: CancellationToken,
}

impl Door {
    async fn keep(self, listening: Vec<Listening>) {
        let mut turn = 0;
        loop {
            // Cancel-safe: what was not accepted stays in the kernel, a permit goes back.
            let (permit, listening, tcp, peer) = tokio::select! {
                accepted = self.next(&listening, &mut turn) => match accepted {
                    Some(accepted) => accepted,
                    None => return,
                },
                () = self.stop.cancelled() => return,
            };
            let port = self.shared.load().port(listening.port);
            self.shared.load().metrics.connected(port.kind);
            // Without it a reply could wait for the acknowledgement of the one before.
            let _ = tcp.set_nodelay(true);
            match permit {
                Permit::Session(permit) if port.proxies.is_none() => {
                    self.open(port, tcp, peer, permit);
                }
                Permit::Session(permit) => {
                    self.tracker.spawn(self.clone().open_behind(port, tcp, peer, permit));
                }
                Permit::Refusal(permit) => {
                    self.turn_away(tcp, replies::TOO_MANY_CONNECTIONS, "total", permit);
                }
            }
        }
    }

    async fn next<'a>(
        &self,
        listening: &'a [Listening],
        turn: &mut usize,
    ) -> Option<(Permit, &'a Listening, TcpStream, SocketAddr)> {
        let admission = Arc::clone(&self.shared.load().admission);
        let permit = admission.permit().await?;
        let (listening, tcp, peer) = accept(listening, turn).await;
        Some((admission.renew(permit), listening, tcp, peer))
    }

    /// Opens a session for the client of whom a proxy tells.
    async fn open_behind(
        self,
        port: Arc<Port>,
        mut tcp: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let Some(proxies) = &port.proxies else { return };
        // May be dropped: nothing was said yet.
        let told = self.stop.run_until_cancelled(proxies.client(&mut tcp, peer)).await;
        match told {
            Some(Ok(Some(client))) => self.open(port, tcp, client, permit),
            Some(Ok(None)) | None => {}
            Some(Err(error)) => {
                self.shared.load().metrics.refused_connection(error.reason());
                tracing::debug!(event = "proxy_refused", proxy = %peer, %error);
            }
        }
    }

    fn open(
        &self,
        port: Arc<Port>,
        tcp: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        // What is changed later is for later connections.
        let shared = self.shared.load_full();
        let max = shared.limits.connections_per_client_max;
        let Some(slot) = shared.clients.enter(ClientKey::of(peer.ip()), max) else {
            return self.turn_away(tcp, replies::TOO_MANY_FROM_CLIENT, "client", permit);
        };
        let leave = self.leave.clone();
        let abort = self.abort.clone();
        let span = tracing::debug_span!(
            target: runtime::trace::TARGET,
            "smtp.session",
            otel.kind = "server",
            network.protocol.name = "smtp",
            smtp.listener = metrics::listener(port.kind),
            client.address = %peer.ip(),
            client.port = peer.port(),
        );
        let session = async move {
            shared.metrics.connections_open.inc();
            let end = talk(&shared, port, tcp, peer, leave, abort).await;
            shared.metrics.connections_open.dec();
            shared.metrics.ended(end);
            drop((slot, permit));
        };
        self.tracker.spawn(session.instrument(span));
    }

    /// Says that there is no room, without letting the client hold us up.
    fn turn_away(
        &self,
        tcp: TcpStream,
        canned: Canned,
        reason: &'static str,
        permit: OwnedSemaphorePermit,
    ) {
        self.shared.load().metrics.refused_connection(reason);
        let mut line = Vec::new();
        smtp::server::write_reply(&canned.reply(), &mut line);
        self.tracker.spawn(async move {
            let mut stream = Stream::Clear(tcp);
            let say = async {
                let _ = stream.write_all(&line).await;
                let _ = stream.shutdown().await;
            };
            let _ = tokio::time::timeout(Duration::from_secs(5), say).await;
            drop(permit);
        });
    }
}

async fn talk(
    shared: &Arc<Shared>,
    port: Arc<Port>,
    tcp: TcpStream,
    peer: SocketAddr,
    leave: CancellationToken,
    abort: CancellationToken,
) -> End {
    let stream = match (port.kind, port.acceptor()) {
        (smtp::ListenerKind::Submissions, Some(acceptor)) => {
            // Boxed: a handshake is large, and every idle session would carry room for it.
            let shake_hands = Box::pin(shared.shake_hands(acceptor, tcp));
            // May be dropped: nothing was said yet.
            match abort.run_until_cancelled(shake_hands).await {
                Some(Some(tls)) => Stream::Tls(tls),
                Some(None) => return End::Disconnected,
                None => return End::Aborted,
            }
        }
        _ => Stream::Clear(tcp),
    };
    Session::new(Arc::clone(shared), port, stream, peer, leave).run(abort).await
}
