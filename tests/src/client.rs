//! A small SMTP client of the tests' own: what it says is what the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Longest wait for one reply.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A session with a server.
pub struct Client {
    stream: Box<dyn Stream>,
    buffered: Vec<u8>,
    /// Empty for somebody who has not logged in.
    login: String,
}

/// A reply as it came.
#[derive(Debug, Clone)]
pub struct Reply {
    pub code: u16,
    /// All lines with codes and without CRLF, joined by `\n`.
    pub text: String,
}

impl Client {
    /// Connects and reads the greeting.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        Self::over(TcpStream::connect(address).await?).await
    }

    /// Reads the greeting on a connection.
    pub async fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let mut client =
            Self { stream: Box::new(stream), buffered: Vec::new(), login: String::new() };
        client.expect(220).await.context("greeting")?;
        Ok(client)
    }

    /// Connects, starts TLS and logs in.
    pub async fn submission(address: SocketAddr, login: &str, password: &str) -> Result<Self> {
        let mut client = Self::connect(address).await?;
        client.command("EHLO client.test", 250).await?;
        let mut client = client.start_tls().await?;
        client.command("EHLO client.test", 250).await?;
        let plain = STANDARD.encode(format!("\0{login}\0{password}"));
        client.command(&format!("AUTH PLAIN {plain}"), 235).await?;
        client.login = login.to_owned();
        Ok(client)
    }

    /// Who has logged in.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// What this recipient of a new session at port 25 is answered.
    pub async fn rcpt(address: SocketAddr, recipient: &str) -> Result<u16> {
        let mut client = Self::connect(address).await?;
        client.command("EHLO client.test", 250).await?;
        client.command("MAIL FROM:<a@elsewhere.test>", 250).await?;
        client.send(format!("RCPT TO:<{recipient}>\r\n").as_bytes()).await?;
        Ok(client.reply().await?.code)
    }

    /// STARTTLS with a handshake that believes any certificate.
    pub async fn start_tls(self) -> Result<Self> {
        self.start_tls_with(trusting()?.with_no_client_auth()).await
    }

    /// The same as somebody who has a certificate.
    pub async fn start_tls_as(
        self,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self> {
        self.start_tls_with(trusting()?.with_client_auth_cert(vec![certificate], key)?).await
    }

    async fn start_tls_with(self, config: ClientConfig) -> Result<Self> {
        let login = self.login.clone();
        let stream = self.handshake(config, "server.test").await?;
        Ok(Self { stream: Box::new(stream), buffered: Vec::new(), login })
    }

    /// The certificate that is shown by STARTTLS to whoever asks for a server of this name.
    pub async fn certificate(self, name: &'static str) -> Result<CertificateDer<'static>> {
        let stream = self.handshake(trusting()?.with_no_client_auth(), name).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        Ok(shown.context("no certificate")?.clone().into_owned())
    }

    async fn handshake(
        mut self,
        config: ClientConfig,
        name: &'static str,
    ) -> Result<TlsStream<Box<dyn Stream>>> {
        self.command("STARTTLS", 220).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(connector.connect(ServerName::try_from(name)?, self.stream).await?)
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Sends a line and wants this code.
    pub async fn command(&mut self, line: &str, code: u16) -> Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes()).await?;
        self.expect(code).await.with_context(|| format!("after {line:?}"))
    }

    pub async fn expect(&mut self, code: u16) -> Result<Reply> {
        let reply = self.reply().await?;
        ensure!(reply.code == code, "wanted {code}, got {:?}", reply.text);
        Ok(reply)
    }

    /// One transaction; the reply is that to the final dot, or the first that was not positive.
    pub async fn transaction(
        &mut self,
        reverse_path: &str,
        recipients: &[&str],
        content: &[u8],
    ) -> Result<Reply> {
        let mut lines = vec![format!("MAIL FROM:<{reverse_path}>")];
        lines.extend(recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
        for line in lines.iter().map(String::as_str).chain(["DATA"]) {
            self.send(format!("{line}\r\n").as_bytes()).await?;
            let reply = self.reply().await?;
            if reply.code >= 400 {
                return Ok(reply);
            }
        }
        self.send(&dot_stuffed(content)).await?;
        self.reply().await
    }

    /// Reads one reply, however many lines it has.
    pub async fn reply(&mut self) -> Result<Reply> {
        tokio::time::timeout(REPLY_LIMIT, self.read_reply()).await.context("no reply in 60 s")?
    }

    async fn read_reply(&mut self) -> Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.read_line().await?;
            ensure!(line.len() >= 3, "short reply line {line:?}");
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                let code = lines[0][..3].parse()?;
                return Ok(Reply { code, text: lines.join("\n") });
            }
        }
    }

    async fn read_line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffered.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buffered.drain(..end + 2).collect::<Vec<u8>>();
                return Ok(String::from_utf8(line[..end].to_vec())?);
            }
            let mut chunk = [0; 4096];
            let n = self.stream.read(&mut chunk).await?;
            ensure!(n > 0, "connection closed");
            self.buffered.extend_from_slice(&chunk[..n]);
        }
    }
}

/// The content as it goes over the wire, with the final dot.
pub fn dot_stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 16);
    let mut line_start = true;
    for &b in content {
        if line_start && b == b'.' {
            wire.push(b'.');
        }
        wire.push(b);
        line_start = b == b'\n';
    }
    if !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

fn trusting() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnything));
    Ok(builder)
}

#[derive(Debug)]
struct TrustAnything;

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
