//! TLS as a client: opportunistic, required, verified.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};

/// How much TLS a destination needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsMode {
    /// Never: for a smarthost in the same pod.
    None,
    /// When it is offered, with any certificate; in clear when it is not, or fails (RFC 7435).
    #[default]
    Opportunistic,
    /// Or no delivery; any certificate.
    Required,
    /// Or no delivery; the certificate must be valid for the host's name.
    Verify,
}

impl TlsMode {
    pub(crate) fn is_mandatory(self) -> bool {
        matches!(self, Self::Required | Self::Verify)
    }
}

/// Why TLS could not be set up from the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tlsCaFile cannot be read")]
    CaFile(#[source] rustls::pki_types::pem::Error),
    #[error("tlsCaFile holds what is no certificate of an authority")]
    Certificate(#[source] rustls::Error),
    #[error("TLS versions cannot be set up")]
    Versions(#[source] rustls::Error),
}

/// The two configurations there are: one that verifies, one that takes any certificate.
#[derive(Clone, Debug)]
pub(crate) struct TlsClients {
    any: Arc<ClientConfig>,
    verifying: Arc<ClientConfig>,
}

impl TlsClients {
    /// `ca_file`: PEM certificates trusted beside those of Mozilla.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Versions)
        };
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = ca_file {
            for certificate in CertificateDer::pem_file_iter(path).map_err(TlsError::CaFile)? {
                let certificate = certificate.map_err(TlsError::CaFile)?;
                roots.add(certificate).map_err(TlsError::Certificate)?;
            }
        }
        let verifying = builder()?.with_root_certificates(roots).with_no_client_auth();
        let any = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
            .with_no_client_auth();
        Ok(Self { any: Arc::new(any), verifying: Arc::new(verifying) })
    }

    pub(crate) fn config(&self, mode: TlsMode) -> Arc<ClientConfig> {
        match mode {
            TlsMode::Verify => self.verifying.clone(),
            TlsMode::None | TlsMode::Opportunistic | TlsMode::Required => self.any.clone(),
        }
    }
}

/// The name to ask for, and to verify. A name that TLS cannot express is asked for by address:
/// it then fails to verify, as it should.
pub(crate) fn server_name(host: &str, address: IpAddr) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::from(address))
}

/// Takes any certificate, but only from a peer that holds its key (RFC 7435 §3).
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
