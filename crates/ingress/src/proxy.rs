//! The PROXY protocol (v1 and v2, HAProxy's `proxy-protocol.txt`): who the client is, said by a
//! load balancer that stands before us.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the header may take: it is the first that a proxy sends.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long who may not send one may stay without a word: a probe closes at once.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// The shortest there is: `PROXY UNKNOWN` and CRLF.
const HEADER_OCTETS_MIN: usize = 15;
/// What a header of v2 has before what it says the length of.
const V2_FIXED_OCTETS: usize = 16;
/// Addresses take at most 216 octets; the rest is what proxies add about TLS and themselves.
const V2_OCTETS_MAX: usize = 4096;

const PARSE: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };

/// Those who may say who the client is.
#[derive(Debug, Clone)]
pub(crate) struct Proxies(Vec<IpNet>);

/// Why nobody knows who the client is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("its address is in none of the networks of proxyProtocol.from")]
    Foreign,
    #[error("it closed the connection, or it broke, before the end of its header")]
    Broken(#[source] io::Error),
    #[error("its header did not come within 5 s")]
    Late,
    #[error("what it sent is no PROXY header: {0}")]
    Malformed(#[source] Error),
}

impl ProxyError {
    /// For a metric's label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Foreign => "proxy_foreign",
            Self::Broken(_) | Self::Late => "proxy_incomplete",
            Self::Malformed(_) => "proxy_malformed",
        }
    }
}

impl Proxies {
    pub(crate) fn new(from: Vec<IpNet>) -> Self {
        Self(from)
    }

    /// Reads the header and no octet more: who the client is, or `peer` itself where the proxy
    /// speaks for itself. `None` when the connection was closed without an octet, as probes do,
    /// from whatever network.
    pub(crate) async fn client(
        &self,
        tcp: &mut TcpStream,
        peer: SocketAddr,
    ) -> Result<Option<SocketAddr>, ProxyError> {
        let address = peer.ip().to_canonical();
        let is_foreign = !self.0.iter().any(|network| network.contains(&address));
        let said = async {
            match first_octet(tcp).await? {
                None => Ok(None),
                Some(_) if is_foreign => Err(ProxyError::Foreign),
                Some(first) => read(tcp, first).await.map(Some),
            }
        };
        let limit = if is_foreign { PROBE_TIMEOUT } else { HEADER_TIMEOUT };
        match timeout(limit, said).await {
            Ok(said) => Ok(said?.map(|client| client.unwrap_or(peer))),
            Err(_) if is_foreign => Err(ProxyError::Foreign),
            Err(_) => Err(ProxyError::Late),
        }
    }
}

/// `None` when nothing was said at all.
async fn first_octet(tcp: &mut TcpStream) -> Result<Option<u8>, ProxyError> {
    let mut octet = [0; 1];
    match tcp.read(&mut octet).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(octet[0])),
        // As some probes close.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(ProxyError::Broken(error)),
    }
}

/// The client, if it is another than the proxy.
async fn read(tcp: &mut TcpStream, first: u8) -> Result<Option<SocketAddr>, ProxyError> {
    let mut octets = vec![first];
    loop {
        match ProxyHeader::parse(&octets, PARSE) {
            Ok((header, _)) => return Ok(header.proxied_address().map(|it| it.source)),
            Err(Error::BufferTooShort) => {}
            Err(error) => return Err(ProxyError::Malformed(error)),
        }
        let had = octets.len();
        let missing = missing(&octets).ok_or(ProxyError::Malformed(Error::HeaderTooBig))?;
        octets.resize(had + missing, 0);
        tcp.read_exact(&mut octets[had..]).await.map_err(ProxyError::Broken)?;
    }
}

/// How many more octets belong to the header for sure, at least one; `None` when it is too long.
fn missing(octets: &[u8]) -> Option<usize> {
    let had = octets.len();
    if had < HEADER_OCTETS_MIN {
        return Some(HEADER_OCTETS_MIN - had);
    }
    if octets[0] != b'\r' || had < V2_FIXED_OCTETS {
        return Some(1);
    }
    let length = usize::from(u16::from_be_bytes([octets[14], octets[15]]));
    let missing = (V2_FIXED_OCTETS + length).checked_sub(had)?;
    (missing > 0 && length <= V2_OCTETS_MAX).then_some(missing)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is made of `sent` and the end of the connection, and what is left to read.
    async fn heard(from: &str, sent: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut tcp, peer) = listener.accept().await.unwrap();
        proxy.write_all(sent).await.unwrap();
        drop(proxy);
        let proxies = Proxies::new(vec![from.parse().unwrap()]);
        let client = proxies.client(&mut tcp, peer).await;
        let client = client.map(|client| client.filter(|client| *client != peer));
        let mut rest = Vec::new();
        // A connection that was closed on unread octets is reset.
        let _ = tcp.read_to_end(&mut rest).await;
        (client, rest)
    }

    fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let mut octets = Vec::new();
        let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        header.encode_v2(&mut octets).unwrap();
        octets
    }

    #[tokio::test]
    async fn the_client_is_who_the_proxy_says_and_the_rest_is_the_clients() {
        let v4: SocketAddr = "192.0.2.7:4321".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::7]:4321".parse().unwrap();
        let (to4, to6) = ("192.0.2.1:25".parse().unwrap(), "[2001:db8::1]:25".parse().unwrap());
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
        for (header, want) in [
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 4321 25\r\n".to_vec(), Some(v4)),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 25\r\n".to_vec(), Some(v6)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN what ever\r\n".to_vec(), None),
            (v2(v4, to4), Some(v4)),
            (v2(v6, to6), Some(v6)),
            (local, None),
        ] {
            let sent = [&header[..], b"EHLO client.example\r\n"].concat();
            let (client, rest) = heard("127.0.0.0/8", &sent).await;
            assert_eq!(client.unwrap(), want, "{}", header.escape_ascii());
            assert_eq!(rest, b"EHLO client.example\r\n", "{}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn nobody_else_is_believed() {
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4321 25\r\n";
        let long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
        for (from, sent, want) in [
            ("10.0.0.0/8", &header[..], "proxy_foreign"),
            ("127.0.0.1/32", b"EHLO client.example\r\n", "proxy_malformed"),
            ("127.0.0.1/32", b"PROXY TCP4 192.0.2.7", "proxy_incomplete"),
            ("127.0.0.1/32", b"PROXY TCP9 192.0.2.7 192.0.2.1 4321 25\r\n", "proxy_malformed"),
            ("127.0.0.1/32", &[b'P'; 200], "proxy_malformed"),
            ("127.0.0.1/32", long, "proxy_malformed"),
        ] {
            let (client, _) = heard(from, sent).await;
            let error = client.expect_err(&sent.escape_ascii().to_string());
            assert_eq!(error.reason(), want, "{}: {error}", sent.escape_ascii());
        }
        for from in ["127.0.0.1/32", "10.0.0.0/8"] {
            assert!(matches!(heard(from, b"").await.0, Ok(None)), "a probe");
        }
    }

    proptest! {
        /// Whatever it is, no octet of what follows a header is asked for, and none is waited for
        /// in vain.
        #[test]
        fn never_more_than_the_header(
            source in any::<(bool, u32, u128, u16)>(),
            tlvs in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let (is_v4, v4, v6, port) = source;
            let address = |port| match is_v4 {
                true => SocketAddr::from((Ipv4Addr::from_bits(v4), port)),
                false => SocketAddr::from((Ipv6Addr::from_bits(v6), port)),
            };
            let mut octets = v2(address(port), address(25));
            octets.extend_from_slice(&tlvs);
            let length = u16::try_from(octets.len() - V2_FIXED_OCTETS).unwrap();
            octets[14..16].copy_from_slice(&length.to_be_bytes());
            let mut had = 1;
            while let Err(error) = ProxyHeader::parse(&octets[..had], PARSE) {
                prop_assert_eq!(error, Error::BufferTooShort);
                had += missing(&octets[..had]).unwrap();
                prop_assert!(had <= octets.len());
            }
            prop_assert_eq!(had, octets.len());
        }
    }
}
