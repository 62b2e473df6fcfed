//! TLS as a client: opportunistic, required, verified.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use domains::spec::RelayTlsMode;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
};
use serde::{Deserialize, Serialize};

use crate::config::Route;

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

impl From<RelayTlsMode> for TlsMode {
    fn from(mode: RelayTlsMode) -> Self {
        match mode {
            RelayTlsMode::Opportunistic => Self::Opportunistic,
            RelayTlsMode::Required => Self::Required,
            RelayTlsMode::Verify => Self::Verify,
        }
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
    #[error("the domain's relay.tls.ca holds what is no certificate of an authority")]
    Authorities,
}

/// The two configurations there are: one that verifies, one that takes any certificate. A gateway
/// domain may have one of its own.
#[derive(Clone, Debug)]
pub(crate) struct TlsClients {
    provider: Arc<CryptoProvider>,
    any: Arc<ClientConfig>,
    verifying: Arc<ClientConfig>,
}

impl TlsClients {
    /// `ca_file`: PEM certificates trusted beside those of Mozilla.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = ca_file {
            for certificate in CertificateDer::pem_file_iter(path).map_err(TlsError::CaFile)? {
                let certificate = certificate.map_err(TlsError::CaFile)?;
                roots.add(certificate).map_err(TlsError::Certificate)?;
            }
        }
        let verifying = builder(&provider)?.with_root_certificates(roots).with_no_client_auth();
        let any = builder(&provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
            .with_no_client_auth();
        Ok(Self { provider, any: Arc::new(any), verifying: Arc::new(verifying) })
    }

    /// What a host is spoken to with on this route.
    pub(crate) fn of_route(&self, route: &Route) -> Result<Arc<ClientConfig>, TlsError> {
        match route.way.gateway().and_then(|gateway| gateway.authorities.as_deref()) {
            Some(authorities) => self.trusting(authorities),
            None => Ok(self.config(route.tls)),
        }
    }

    /// One that trusts the authorities of a PEM text, and no others.
    fn trusting(&self, authorities: &str) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            let certificate = certificate.map_err(|_| TlsError::Authorities)?;
            roots.add(certificate).map_err(|_| TlsError::Authorities)?;
        }
        if roots.is_empty() {
            return Err(TlsError::Authorities);
        }
        let config = builder(&self.provider)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::new(config))
    }

    fn config(&self, mode: TlsMode) -> Arc<ClientConfig> {
        match mode {
            TlsMode::Verify => self.verifying.clone(),
            TlsMode::None | TlsMode::Opportunistic | TlsMode::Required => self.any.clone(),
        }
    }
}

fn builder(
    provider: &Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)
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
