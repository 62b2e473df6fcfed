//! A client that says exactly what it is told to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

/// Every wait of a test.
const PATIENCE: Duration = Duration::from_secs(20);

trait Octets: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Octets for T {}

pub(super) struct Client {
    stream: Box<dyn Octets>,
    received: Vec<u8>,
    /// The certificate that the server showed.
    pub(super) certificate: Option<Vec<u8>>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// From another address of the loopback network.
    pub(super) async fn connect_from(client: IpAddr, server: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((client, 0).into()).unwrap();
        Self::over(socket.connect(server).await.unwrap())
    }

    pub(super) async fn connect_tls(address: SocketAddr, name: &str) -> Self {
        Self::connect(address).await.start_tls(name).await
    }

    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { stream: Box::new(stream), received: Vec::new(), certificate: None }
    }

    pub(super) async fn start_tls(self, name: &str) -> Self {
        self.start_tls_with(name, trusting().with_no_client_auth()).await
    }

    /// The same, showing a certificate.
    pub(super) async fn start_tls_as(
        self,
        name: &str,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Self {
        let config = trusting().with_client_auth_cert(chain, key).unwrap();
        self.start_tls_with(name, config).await
    }

    async fn start_tls_with(self, name: &str, config: ClientConfig) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let tls = tokio::time::timeout(PATIENCE, connector.connect(name, self.stream)).await;
        let tls = tls.expect("handshake in time").unwrap();
        let certificate = tls.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
        Self { certificate, ..Self::over(tls) }
    }

    pub(super) async fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends a line, and wants a reply that begins like this; returns it.
    pub(super) async fn says(&mut self, line: &str, want: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        let reply = self.reply().await;
        assert!(reply.starts_with(want), "to {line:?}: {reply:?}, not {want:?}");
        reply
    }

    pub(super) async fn expect(&mut self, want: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(want), "{reply:?}, not {want:?}");
        reply
    }

    /// The next reply, its last line without CR LF; empty at the end of the connection.
    pub(super) async fn reply(&mut self) -> String {
        loop {
            let line = self.line().await;
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).unwrap();
            }
            let mut buffer = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await;
            match read.expect("a reply in time") {
                Ok(0) | Err(_) => return String::new(),
                Ok(octets) => self.received.extend_from_slice(&buffer[..octets]),
            }
        }
    }

    /// Wants the connection to end, with nothing more said.
    pub(super) async fn expect_end(&mut self) {
        assert_eq!(self.reply().await, "");
    }

    /// MAIL, one RCPT and DATA, up to the 354.
    pub(super) async fn begin(&mut self, from: &str, to: &str) {
        self.says(&format!("MAIL FROM:<{from}>"), "250 2.1.0").await;
        self.says(&format!("RCPT TO:<{to}>"), "250 2.1.5").await;
        self.says("DATA", "354").await;
    }

    /// A whole message; returns the reply to its final dot.
    pub(super) async fn send_message(&mut self, from: &str, to: &str, content: &str) -> String {
        self.begin(from, to).await;
        self.send(content.as_bytes()).await;
        self.send(b".\r\n").await;
        self.reply().await
    }
}

/// Trusts everybody: what is tested is the server.
fn trusting() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll(aws_lc_rs::default_provider())))
}

#[derive(Debug)]
struct TrustAll(CryptoProvider);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
