//! Who vouches for the bundled servers of NATS.

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{Fields, fields};

/// A key, and the certificate that says whose it is.
pub(super) struct Authority {
    pub(super) certificate: String,
    key: String,
}

impl Authority {
    /// A new one.
    pub(super) fn make() -> anyhow::Result<Fields> {
        let key = KeyPair::generate()?;
        let certificate = params().self_signed(&key)?;
        Ok(fields([("ca.crt", certificate.pem()), ("ca.key", key.serialize_pem())]))
    }

    pub(super) fn read(made: &Fields) -> anyhow::Result<Self> {
        let field = |name: &str| {
            made.get(name).cloned().with_context(|| format!("the authority has no {name}"))
        };
        Ok(Self { certificate: field("ca.crt")?, key: field("ca.key")? })
    }

    /// A certificate for these names, and its key. It lasts as long as the authority: both are made
    /// anew together, by deleting the Secrets.
    pub(super) fn issue(&self, names: &[String]) -> anyhow::Result<(String, String)> {
        let issuer = Issuer::new(params(), KeyPair::from_pem(&self.key)?);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "nats-server");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(4096, 1, 1);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// What the authority's certificate says, whatever its key.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "postrider-nats");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = rcgen::date_time_ymd(4096, 1, 1);
    params
}
