//! The certificates that clients are shown.

use std::path::Path;
use std::time::Duration;

use ingress::{CertificateFiles, TlsError};
use mail_types::{Domain, Host, Timestamp};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

use super::Site;
use super::finding::{Finding, What};
use crate::config::{Config, FILE, Refused};

const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    names: Vec<String>,
    from: Timestamp,
    to: Timestamp,
    trust: Trust,
    /// Of our names those that it is valid for.
    hosts: Vec<Host>,
}

/// Who vouches for it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Trust {
    /// An authority that clients know.
    Public,
    /// Itself.
    Itself,
    /// Nobody that is known here, by what its file says.
    Unknown,
    /// Nobody could, for this reason.
    Broken(String),
}

/// Refuses a configuration that names files of certificates that no process could start with.
pub(crate) fn ensure_readable(config: &Config) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for (n, files) in config.ingress.tls.certificates.iter().enumerate() {
        if let Err(error) = ingress::read_certificate(files) {
            problems.push(problem(&format!("tls.certificates[{n}]"), error));
        }
    }
    for (n, path) in client_authorities(config) {
        if let Err(error) = ingress::read_authorities(path) {
            let field = format!("listeners[{n}].clientCertificates.caFile");
            problems.push(problem(&field, error));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Refused::of_lines(&problems).into()) }
}

fn problem(field: &str, error: TlsError) -> String {
    format!("{FILE}: ingress.{field}: {:#}", anyhow::Error::new(error))
}

/// The files of those who vouch for clients, with the numbers of their listeners.
fn client_authorities(config: &Config) -> impl Iterator<Item = (usize, &Path)> {
    let listeners = config.ingress.listeners.iter().enumerate();
    listeners.filter_map(|(n, it)| Some((n, it.client_certificates.as_ref()?.ca_file.as_path())))
}

pub(super) fn findings(site: &Site) -> Vec<Finding> {
    let mut findings = of_own(site);
    for (_, path) in client_authorities(&site.config) {
        if let Err(error) = ingress::read_authorities(path) {
            findings.push(judge_unreadable(&error, "clientCertificates.caFile"));
        }
    }
    findings
}

/// Those that clients are shown.
fn of_own(site: &Site) -> Vec<Finding> {
    let ingress = &site.config.ingress;
    if ingress.listeners.is_empty() {
        return vec![What::Certificate.ok("none is needed: there are no listeners")];
    }
    if ingress.tls.certificates.is_empty() {
        return vec![What::Certificate.warning(
            "none is set: clients are shown one that is signed by itself, and may refuse it",
            "name one in ingress.tls.certificates",
        )];
    }
    let (now, hosts) = (runtime::clock::now(), site.listener_names());
    let (mut findings, mut seen) = (Vec::new(), Vec::new());
    for files in &ingress.tls.certificates {
        let file = files.certificate.display().to_string();
        match Seen::read(files, &hosts, now) {
            Ok(certificate) => {
                findings.extend(judge(&file, &certificate, now));
                seen.push(certificate);
            }
            Err(error) => findings.push(judge_unreadable(&error, "ingress.tls.certificates")),
        }
    }
    if seen.len() == ingress.tls.certificates.len() {
        findings.extend(hosts.iter().filter_map(|host| judge_host(host, &seen)));
        findings.extend(judge_domains(&site.hosted_domains(), &seen));
    }
    findings
}

impl Seen {
    fn read(files: &CertificateFiles, hosts: &[Host], now: Timestamp) -> Result<Self, TlsError> {
        let chain = ingress::read_certificate(files)?.cert;
        let unusable = |source: Error| TlsError::Key {
            path: files.certificate.clone(),
            source: rustls::Error::General(source.to_string()),
        };
        let (own, others) = chain
            .split_first()
            .ok_or_else(|| TlsError::Empty { path: files.certificate.clone() })?;
        let certificate = EndEntityCert::try_from(own).map_err(unusable)?;
        let (from, to) = validity(&certificate).map_err(unusable)?;
        let is_for = |host: &&Host| {
            let name = host.domain().and_then(|name| ServerName::try_from(name.as_str()).ok());
            name.is_some_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
        };
        Ok(Self {
            names: certificate.valid_dns_names().map(str::to_ascii_lowercase).collect(),
            from,
            to,
            // Whether the others vouch for it is another question than whether it is too late.
            trust: trust(&certificate, own, others, now.clamp(from, to)),
            hosts: hosts.iter().filter(is_for).cloned().collect(),
        })
    }

    /// Whether a client that asks for some name of the domain, or for the domain, is shown it.
    fn is_of(&self, domain: &Domain) -> bool {
        self.names.iter().any(|name| {
            let base = name.strip_prefix("*.");
            let covers = |base| domain.as_str().split_once('.').is_some_and(|(_, it)| it == base);
            base.is_some_and(covers)
                || Domain::parse(base.unwrap_or(name)).is_ok_and(|name| name.is_within(domain))
        })
    }
}

/// From when and until when it is valid: the library tells neither, but by how much it misses both.
fn validity(certificate: &EndEntityCert<'_>) -> Result<(Timestamp, Timestamp), Error> {
    let timestamp =
        |time: UnixTime| Timestamp::from_unix_ms(0) + Duration::from_secs(time.as_secs());
    let at = |time| verify(certificate, &[], &[], UnixTime::since_unix_epoch(time));
    let from = match at(Duration::ZERO) {
        Err(Error::CertNotValidYet { not_before, .. }) => timestamp(not_before),
        Err(error @ (Error::InvalidCertValidity | Error::BadDer | Error::BadDerTime)) => {
            return Err(error);
        }
        _ => Timestamp::from_unix_ms(0),
    };
    match at(Duration::from_secs(u64::MAX)) {
        Err(Error::CertExpired { not_after, .. }) => Ok((from, timestamp(not_after))),
        Err(error) => Err(error),
        Ok(()) => Err(Error::InvalidCertValidity),
    }
}

fn trust(
    certificate: &EndEntityCert<'_>,
    own: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    at: Timestamp,
) -> Trust {
    let seconds = u64::try_from(at.unix_ms() / 1000).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    match verify(certificate, webpki_roots::TLS_SERVER_ROOTS, others, at) {
        Ok(()) => Trust::Public,
        Err(Error::UnknownIssuer) => {
            let itself = anchor_from_trusted_cert(own);
            let by_itself = |itself| verify(certificate, &[itself], &[], at).is_ok();
            if itself.is_ok_and(by_itself) { Trust::Itself } else { Trust::Unknown }
        }
        // An authority's certificate, used as if it were a host's: made by hand.
        Err(Error::CaUsedAsEndEntity) => Trust::Itself,
        Err(error) => Trust::Broken(error.to_string()),
    }
}

fn verify(
    certificate: &EndEntityCert<'_>,
    anchors: &[TrustAnchor<'_>],
    others: &[CertificateDer<'_>],
    at: UnixTime,
) -> Result<(), Error> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    certificate
        .verify_for_usage(algorithms, anchors, others, at, KeyUsage::server_auth(), None, None)
        .map(drop)
}

fn judge_unreadable(error: &TlsError, field: &str) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let detail = format!("{error}{}", cause.unwrap_or_default());
    What::Certificate.error(detail, format!("correct {field}: nothing starts with it"))
}

fn judge(file: &str, seen: &Seen, now: Timestamp) -> Vec<Finding> {
    let problems: Vec<Finding> =
        [judge_time(file, seen, now), judge_trust(file, seen)].into_iter().flatten().collect();
    if !problems.is_empty() {
        return problems;
    }
    let (names, to) = (seen.names.join(", "), day(seen.to));
    vec![What::Certificate.ok(format!("{file} is for {names}, until {to}"))]
}

fn judge_time(file: &str, seen: &Seen, now: Timestamp) -> Option<Finding> {
    let (from, to) = (day(seen.from), day(seen.to));
    if now < seen.from {
        let detail = format!("{file} is not valid before {from}");
        return Some(What::Certificate.error(detail, "is the clock right? See what is said of it"));
    }
    let remedy = "renew it; running processes take the new files up by themselves";
    if now > seen.to {
        return Some(What::Certificate.error(format!("{file} expired on {to}"), remedy));
    }
    let is_soon = seen.to.since(now) < EXPIRES_SOON;
    is_soon.then(|| What::Certificate.warning(format!("{file} expires on {to}"), remedy))
}

fn judge_trust(file: &str, seen: &Seen) -> Option<Finding> {
    let certificate = What::Certificate;
    match &seen.trust {
        Trust::Public => None,
        Trust::Itself => Some(certificate.warning(
            format!("{file} is signed by itself: who verifies it refuses it"),
            "have it signed by an authority that clients know",
        )),
        Trust::Unknown => Some(certificate.warning(
            format!("{file} leads to no authority that everybody knows"),
            "unless the authority is your own, add its intermediate certificates to the file",
        )),
        Trust::Broken(cause) => Some(certificate.error(
            format!("{file} does not hold as a chain: {cause}"),
            "put the certificates there that the authority gave you with it, your own first",
        )),
    }
}

/// Other servers verify the name that a listener says, if anything; users ask for what they were
/// told.
fn judge_host(host: &Host, seen: &[Seen]) -> Option<Finding> {
    let is_shown = seen.iter().any(|certificate| certificate.hosts.contains(host));
    (!is_shown).then(|| {
        What::Certificate.warning(
            format!("none is for {host}, which a listener says that it is"),
            "get one that is, or clients that connect to that name and verify it go away",
        )
    })
}

/// Who has several has them for names of several domains.
fn judge_domains(domains: &[Domain], seen: &[Seen]) -> Option<Finding> {
    let is_bare = |domain: &&Domain| !seen.iter().any(|certificate| certificate.is_of(domain));
    let bare: Vec<&str> = domains.iter().filter(is_bare).map(|domain| domain.as_str()).collect();
    let first = bare.first().filter(|_| seen.len() > 1)?;
    let more = match bare.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} domains more)"),
    };
    Some(What::Certificate.warning(
        format!("none has a name in {first}{more}: clients that ask for one are shown the first"),
        "get one that has, unless its users connect to another name",
    ))
}

fn day(time: Timestamp) -> String {
    time.to_rfc3339().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;
    use crate::check::finding::Level;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_000_000_000);

    fn params(names: &[&str], to: Duration) -> CertificateParams {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + to;
        params
    }

    fn files(dir: &Path, certificates: &str, key: &KeyPair) -> CertificateFiles {
        let path = |name: &str| dir.join(name);
        fs::write(path("crt"), certificates).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        CertificateFiles { certificate: path("crt"), key: path("key") }
    }

    fn host() -> Host {
        Host::parse("mx.a.example").unwrap()
    }

    fn read(files: &CertificateFiles) -> Result<Seen, TlsError> {
        Seen::read(files, &[host(), Host::parse("mx.c.example").unwrap()], NOW)
    }

    #[test]
    fn what_a_certificate_says() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let params = params(&["*.a.example", "B.example"], Duration::from_secs(1_800_000_000));
        let own = params.self_signed(&key).unwrap().pem();
        let seen = read(&files(dir.path(), &own, &key)).unwrap();
        assert_eq!(seen.names, ["*.a.example", "b.example"]);
        assert_eq!((day(seen.from), seen.to.unix_ms()), ("2026-01-01".into(), 1_800_000_000_000));
        assert_eq!((seen.trust.clone(), &seen.hosts[..]), (Trust::Itself, &[host()][..]));
        let of = |name| seen.is_of(&Domain::parse(name).unwrap());
        assert!(of("a.example") && of("b.example") && of("x.a.example"));
        assert!(!of("c.example") && !of("x.b.example") && !of("y.x.a.example"));
    }

    #[test]
    fn a_private_authority_is_unknown_and_a_wrong_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut authority = params(&[], Duration::from_secs(1_800_000_000));
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = params(&["mx.a.example"], Duration::from_secs(1_800_000_000));
        let own = own.signed_by(&key, &authority).unwrap().pem();
        let chain = own.clone() + &authority.pem();
        for certificates in [&own, &chain] {
            let seen = read(&files(dir.path(), certificates, &key)).unwrap();
            assert_eq!(seen.trust, Trust::Unknown);
        }
        let other = KeyPair::generate().unwrap();
        let error = read(&files(dir.path(), &own, &other)).unwrap_err();
        let finding = judge_unreadable(&error, "ingress.tls.certificates");
        assert_eq!(finding.level, Level::Error);
        assert!(finding.detail.contains("does not go with its key"), "{finding}");
        let error = read(&files(dir.path(), "nothing", &key)).unwrap_err();
        assert_eq!(judge_unreadable(&error, "x").level, Level::Error);
    }

    fn seen() -> Seen {
        Seen {
            names: vec!["mx.a.example".into()],
            from: Timestamp::from_unix_ms(NOW.unix_ms() - 1),
            to: NOW + DAY * 15,
            trust: Trust::Public,
            hosts: vec![host()],
        }
    }

    fn levels(seen: &Seen) -> Vec<Level> {
        judge("chain.pem", seen, NOW).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn times_and_trust() {
        assert_eq!(levels(&seen()), [Level::Ok]);
        assert_eq!(levels(&Seen { to: NOW + DAY * 13, ..seen() }), [Level::Warning]);
        let expired = Timestamp::from_unix_ms(NOW.unix_ms() - 1);
        assert_eq!(levels(&Seen { to: expired, ..seen() }), [Level::Error]);
        assert_eq!(levels(&Seen { from: NOW + DAY, ..seen() }), [Level::Error]);
        assert_eq!(levels(&Seen { trust: Trust::Itself, ..seen() }), [Level::Warning]);
        assert_eq!(levels(&Seen { trust: Trust::Unknown, ..seen() }), [Level::Warning]);
        let broken = Seen { trust: Trust::Broken("BadDer".into()), to: expired, ..seen() };
        assert_eq!(levels(&broken), [Level::Error, Level::Error]);
    }

    #[test]
    fn names() {
        let host = host();
        let other = Seen { hosts: vec![], names: vec!["imap.b.example".into()], ..seen() };
        assert_eq!(judge_host(&host, &[other.clone(), seen()]), None);
        assert!(judge_host(&host, std::slice::from_ref(&other)).is_some());
        let domains = ["a.example", "b.example", "c.example"].map(|d| Domain::parse(d).unwrap());
        assert_eq!(judge_domains(&domains, &[seen()]), None, "one is for all");
        assert_eq!(judge_domains(&domains[..2], &[seen(), other.clone()]), None);
        let finding = judge_domains(&domains, &[seen(), other]).unwrap();
        assert!(finding.detail.contains("in c.example:"), "{finding}");
    }
}
