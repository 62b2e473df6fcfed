//! Whether what a Secret holds can be shown for a domain.

use std::fmt;

use domains::Certificate;
use k8s_openapi::jiff::Timestamp;
use mail_types::Domain;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why a certificate is not shown, or not trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It is none, or the key is another's.
    Unusable(String),
    /// It is for no name of the domain.
    NameMismatch {
        names: Vec<String>,
    },
    Expired {
        until: Timestamp,
    },
}

impl Fault {
    /// A word of the API.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unusable(_) => "CertificateInvalid",
            Self::NameMismatch { .. } => "NameMismatch",
            Self::Expired { .. } => "CertificateExpired",
        }
    }

    /// Whether clients are better served by it than by none.
    pub(crate) fn is_shown(&self) -> bool {
        matches!(self, Self::Expired { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) => {
                write!(f, "{why}; put a PEM chain into tls.crt, and its key into tls.key")
            }
            Self::NameMismatch { names } => write!(
                f,
                "it is for {} and for no name of the domain; order it for a name such as mail. \
                 before the domain",
                names.join(", ")
            ),
            Self::Expired { until } => write!(f, "it was valid until {until}; renew it"),
        }
    }
}

/// Until when it is valid.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(
    certificate: &Certificate,
    domain: &Domain,
    now: Timestamp,
) -> Result<Timestamp, Fault> {
    let unusable = |why: &str| Fault::Unusable(why.to_owned());
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| unusable("tls.crt holds no certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes());
    let key = key.map_err(|_| unusable("tls.key holds no private key"))?;
    let first = chain[0].clone();
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|_| unusable("tls.key is not the key of tls.crt"))?;
    let (_, parsed) = X509Certificate::from_der(&first)
        .map_err(|_| unusable("tls.crt holds no certificate that can be read"))?;
    let names = names(&parsed);
    if !names.iter().any(|name| Certificate::is_of(name, domain)) {
        return Err(Fault::NameMismatch { names });
    }
    let until = Timestamp::from_second(parsed.validity().not_after.timestamp());
    let until = until.map_err(|_| unusable("tls.crt ends at no time"))?;
    if until < now { Err(Fault::Expired { until }) } else { Ok(until) }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| {
            let GeneralName::DNSName(name) = name else { return None };
            Some((*name).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str, until: i32) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let chain = params.self_signed(&key).unwrap().pem();
        Certificate { chain, key: key.serialize_pem() }
    }

    #[test]
    fn faults_are_told_apart() {
        let domain: Domain = "a.example".parse().unwrap();
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let good = made("mail.a.example", 2030);
        let reason = |certificate: &Certificate| {
            check(certificate, &domain, now).map_err(|fault| fault.reason())
        };
        assert_eq!(reason(&good).unwrap().to_string(), "2030-01-01T00:00:00Z");
        assert_eq!(reason(&made("mail.b.example", 2030)), Err("NameMismatch"));
        assert_eq!(reason(&made("mail.a.example", 2026)), Err("CertificateExpired"));
        let other = Certificate { key: made("x.example", 2030).key, ..good.clone() };
        for bad in [other, Certificate { chain: "x".into(), ..good }] {
            assert_eq!(reason(&bad), Err("CertificateInvalid"));
        }
    }
}
