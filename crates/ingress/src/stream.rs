//! A connection in clear or under TLS that holds no buffer while it waits.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::{self, MaybeUninit};
use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::consume_budget;
use tokio_rustls::server::TlsStream;

use crate::port::Port;

/// The octets of a session.
pub(crate) enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// The connection is being handed over to TLS.
    Gone,
}

impl Stream {
    /// Reads what there is into `buffer`, at most about `room` octets; 0 is the end.
    ///
    /// While it waits an empty buffer is given back, so that ten thousand idle sessions cost none.
    /// Cancel-safe: octets are in `buffer` or still in the socket.
    pub(crate) async fn read(&mut self, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
        if let Self::Clear(tcp) = self
            && buffer.is_empty()
        {
            *buffer = BytesMut::new();
            tcp.readable().await?;
        }
        loop {
            if let Poll::Ready(read) = self.read_now(buffer, room).await {
                return read;
            }
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
            if let Some(tcp) = self.tcp() {
                tcp.readable().await?;
            }
            // A task whose turn is over reads nothing, though the socket is readable: without this
            // it would ask both by turns, for ever.
            consume_budget().await;
        }
    }

    /// Polls a read once.
    async fn read_now(&mut self, buffer: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        if buffer.capacity() - buffer.len() < room / 2 {
            buffer.reserve(room);
        }
        match self {
            Self::Clear(tcp) => poll_once(tcp.read_buf(buffer)).await,
            Self::Tls(tls) => poll_once(tls.read_buf(buffer)).await,
            Self::Gone => Poll::Ready(Ok(0)),
        }
    }

    /// Whether octets lie in the socket that nobody has read.
    pub(crate) fn has_unread(&self) -> bool {
        let mut octet = [MaybeUninit::uninit()];
        let peeked = self.tcp().map(|tcp| SockRef::from(tcp).peek(&mut octet));
        matches!(peeked, Some(Ok(octets)) if octets > 0)
    }

    /// Takes the TCP connection out, for a handshake.
    pub(crate) fn take_clear(&mut self) -> Option<TcpStream> {
        match mem::replace(self, Self::Gone) {
            Self::Clear(tcp) => Some(tcp),
            Self::Tls(_) | Self::Gone => None,
        }
    }

    pub(crate) async fn write_all(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(tcp) => tcp.write_all(octets).await,
            Self::Tls(tls) => {
                tls.write_all(octets).await?;
                tls.flush().await
            }
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says that nothing more comes.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(tcp) => tcp.shutdown().await,
            Self::Tls(tls) => tls.shutdown().await,
            Self::Gone => Ok(()),
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Clear(tcp) => Some(tcp),
            Self::Tls(tls) => Some(tls.get_ref().0),
            Self::Gone => None,
        }
    }

    /// Who the client is by its certificate, if it has shown one and an authority of the port says
    /// so.
    pub(crate) fn client_name(&self, port: &Port) -> Option<String> {
        let Self::Tls(tls) = self else { return None };
        let chain = tls.get_ref().1.peer_certificates()?;
        port.authorities.as_ref()?.name(chain, runtime::clock::now())
    }

    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384`, when there is TLS.
    pub(crate) fn tls(&self) -> Option<String> {
        let Self::Tls(tls) = self else { return None };
        let (_, connection) = tls.get_ref();
        let suite = connection.negotiated_cipher_suite()?;
        let version = match suite {
            rustls::SupportedCipherSuite::Tls12(_) => "TLSv1.2",
            rustls::SupportedCipherSuite::Tls13(_) => "TLSv1.3",
        };
        Some(format!("{version} {}", suite.suite().as_str().unwrap_or("unknown")))
    }
}

async fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    let mut future = pin!(future);
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// Tokio lets a task do so much before others must have their turn.
    async fn use_up_budget() {
        let mut is_left = true;
        while is_left {
            is_left = poll_once(consume_budget()).await.is_ready();
        }
    }

    #[test]
    fn a_session_whose_turn_is_over_reads_in_its_next() {
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let read = runtime.unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                client.write_all(b"NOOP\r\n").await.unwrap();
                let (tcp, _) = listener.accept().await.unwrap();
                tcp.readable().await.unwrap();
                let mut stream = Stream::Clear(tcp);
                use_up_budget().await;
                stream.read(&mut BytesMut::new(), 64).await.unwrap()
            });
            done.send(read).unwrap();
        });
        let read = ended.recv_timeout(Duration::from_secs(60));
        assert_eq!(read, Ok(6), "it does nothing else any more");
    }
}
