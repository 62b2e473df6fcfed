//! Certificates of clients: asked for, looked at, and no permission for anything.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mail_types::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;

/// Those whose certificates tell us who a client is.
///
/// A client that has none, or one of somebody else, is served like one that was not asked: its
/// certificate says nothing. That it has the certificate's key is checked in each handshake.
#[derive(Debug)]
pub(crate) struct Authorities {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Authorities {
    /// Reads certificates of authorities.
    pub(crate) fn load(path: &Path) -> Result<Arc<Self>, TlsError> {
        let pem = |source| TlsError::Pem { path: path.to_owned(), source };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(pem)? {
            let added = roots.add(certificate.map_err(pem)?);
            added.map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
        }
        if roots.is_empty() {
            return Err(TlsError::Empty { path: path.to_owned() });
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        let verifier = verifier.map_err(|_| TlsError::Empty { path: path.to_owned() })?;
        Ok(Arc::new(Self { verifier }))
    }

    /// Who a client is by its chain, its own certificate first: an address, a DNS name or a common
    /// name. `None` when none of the authorities says so at this time.
    pub(crate) fn name(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<String> {
        let (own, intermediates) = chain.split_first()?;
        let now = u64::try_from(now.unix_ms()).ok().map(Duration::from_millis)?;
        let now = UnixTime::since_unix_epoch(now);
        self.verifier.verify_client_cert(own, intermediates, now).ok()?;
        let (_, certificate) = X509Certificate::from_der(own).ok()?;
        name(&certificate)
    }
}

fn name(certificate: &X509Certificate<'_>) -> Option<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let (mut address, mut dns) = (None, None);
    for name in alternatives.into_iter().flat_map(|found| &found.value.general_names) {
        if let GeneralName::RFC822Name(name) = name {
            address = address.or(Some(*name));
        } else if let GeneralName::DNSName(name) = name {
            dns = dns.or(Some(*name));
        }
    }
    let common = || certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    address.or(dns).or_else(common).map(str::to_owned)
}

impl ClientCertVerifier for Authorities {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    /// Lets every certificate pass: many servers have one that we do not know, and send mail
    /// without. What one is worth is found out after the handshake, by [`Authorities::name`].
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clients.pem");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (text, problem) in [
            (None, "is not readable"),
            (Some(""), "holds no certificate"),
            (Some("words"), "holds no certificate"),
            (Some(broken), "none of an authority"),
        ] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = Authorities::load(&path).unwrap_err().to_string();
            assert!(error.contains("clients.pem") && error.contains(problem), "{error}");
        }
    }
}
