//! Listening sockets, and how many connections they may open.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// How long accepting rests after an error such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit that may be told so at once.
const REFUSED_MAX: usize = 64;

/// A socket that listens.
pub(crate) struct Listening {
    /// Which listener of the configuration.
    pub(crate) port: usize,
    pub(crate) address: SocketAddr,
    socket: TcpListener,
}

impl Listening {
    pub(crate) fn bind(port: usize, address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if domain == Domain::IPV6 {
            // So that `0.0.0.0:25` can stand beside `[::]:25`, and clients keep their IPv4 form.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        Ok(Self { port, address: socket.local_addr()?, socket })
    }
}

/// The next connection of any listener, with the listener. Cancel-safe.
///
/// One task accepts for all of them, so that only one permit waits for a client.
pub(crate) async fn accept<'a>(
    listening: &'a [Listening],
    turn: &mut usize,
) -> (&'a Listening, TcpStream, SocketAddr) {
    loop {
        let accepted = poll_fn(|context| {
            for step in 0..listening.len() {
                let at = (*turn + step) % listening.len();
                let listening = &listening[at];
                if let Poll::Ready(accepted) = listening.socket.poll_accept(context) {
                    *turn = at + 1;
                    return Poll::Ready(accepted.map(|(tcp, peer)| (listening, tcp, peer)));
                }
            }
            Poll::Pending
        });
        match accepted.await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(event = "accept_failed", %error);
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Bounds the connections of all listeners.
#[derive(Debug)]
pub(crate) struct Admission {
    sessions: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// What the next connection may become; taken before it is accepted.
#[derive(Debug)]
pub(crate) enum Permit {
    Session(OwnedSemaphorePermit),
    /// It is told that there are too many.
    Refusal(OwnedSemaphorePermit),
}

impl Admission {
    pub(crate) fn new(sessions_max: usize) -> Self {
        Self {
            sessions: Arc::new(Semaphore::new(sessions_max)),
            refusals: Arc::new(Semaphore::new(REFUSED_MAX)),
        }
    }

    /// A permit that was taken while all were in use, made one for a session if it can be now.
    pub(crate) fn renew(&self, permit: Permit) -> Permit {
        match permit {
            Permit::Session(permit) => Permit::Session(permit),
            Permit::Refusal(permit) => Arc::clone(&self.sessions)
                .try_acquire_owned()
                .map_or(Permit::Refusal(permit), Permit::Session),
        }
    }

    /// `None` only when the role ends. Cancel-safe.
    pub(crate) async fn permit(&self) -> Option<Permit> {
        let session = Arc::clone(&self.sessions).acquire_owned();
        let refusal = Arc::clone(&self.refusals).acquire_owned();
        // Cancel-safe: a permit that was given and is dropped goes back.
        tokio::select! {
            biased;
            permit = session => permit.ok().map(Permit::Session),
            permit = refusal => permit.ok().map(Permit::Refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn beyond_the_limit_only_refusals() {
        let admission = Admission::new(1);
        let first = admission.permit().await;
        assert!(matches!(first, Some(Permit::Session(_))));
        assert!(matches!(admission.permit().await, Some(Permit::Refusal(_))));
        drop(first);
        assert!(matches!(admission.permit().await, Some(Permit::Session(_))));
    }

    #[tokio::test]
    async fn both_families_on_one_port() {
        let v6 = Listening::bind(0, "[::1]:0".parse().unwrap()).unwrap();
        let number = v6.address.port();
        assert_ne!(number, 0);
        Listening::bind(0, SocketAddr::from(([127, 0, 0, 1], number))).unwrap();
    }
}
