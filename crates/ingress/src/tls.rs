//! Certificates: read from files, chosen by name, replaced while we run; and those of clients.

mod authorities;
mod hosted;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use domains::Table;
use runtime::private_file::write_whole;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::CertificateFiles;

pub(crate) use self::authorities::Authorities;
use self::hosted::Hosted;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: is not readable as PEM; check that it is there and may be read", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{}: does not go with its key", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{}: holds a certificate that is none of an authority", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{}: holds no certificate", path.display())]
    Empty { path: PathBuf },
    #[error("{}: a certificate cannot be written there", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a certificate cannot be made")]
    Make(#[source] rcgen::Error),
}

/// The certificates in use.
#[derive(Debug)]
pub(crate) struct Certificates {
    current: ArcSwap<Loaded>,
    hosted: Hosted,
}

/// Certificates as they were read.
#[derive(Debug)]
pub(crate) struct Loaded {
    files: Vec<CertificateFiles>,
    default: Arc<CertifiedKey>,
    by_name: Named,
    /// When the files were last changed, to see that they changed again.
    stamps: Vec<Option<SystemTime>>,
}

impl Certificates {
    /// Reads all files. `files` has at least one. What `table` has is shown for other names.
    pub(crate) fn load(
        files: Vec<CertificateFiles>,
        table: Arc<ArcSwapOption<Table>>,
    ) -> Result<Arc<Self>, TlsError> {
        let current = ArcSwap::from_pointee(Loaded::read(files)?);
        Ok(Arc::new(Self { current, hosted: Hosted::of(table) }))
    }

    /// Shows what newer tables have, until the stop.
    pub(crate) async fn follow_table(self: Arc<Self>, stop: CancellationToken) {
        self.hosted.follow(stop).await;
    }

    /// Puts others in use.
    pub(crate) fn replace(&self, loaded: Loaded) {
        self.current.store(Arc::new(loaded));
    }

    /// An acceptor for TLS 1.2 and 1.3 that always uses the newest certificates. Clients are asked
    /// for theirs where it matters whose it is.
    pub(crate) fn acceptor(self: &Arc<Self>, clients: Option<&Arc<Authorities>>) -> TlsAcceptor {
        let config = rustls::ServerConfig::builder();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => config.with_client_cert_verifier(Arc::<Authorities>::clone(clients)),
        };
        TlsAcceptor::from(Arc::new(config.with_cert_resolver(Arc::<Self>::clone(self))))
    }

    /// Looks at the files again and again until the stop; what cannot be read is logged and the
    /// certificates in use stay.
    pub(crate) async fn keep_fresh(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        loop {
            // Cancel-safe: neither branch holds anything.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let current = self.current.load_full();
            if current.stamps == stamps(&current.files) {
                continue;
            }
            match Loaded::read(current.files.clone()) {
                Ok(loaded) => {
                    // Unless others were put in use meanwhile.
                    self.current.compare_and_swap(&current, Arc::new(loaded));
                    tracing::info!(event = "certificates_reloaded");
                }
                Err(error) => {
                    tracing::warn!(event = "certificates_not_reloaded", error = %chain(&error));
                }
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.current.load();
        let find = |name| loaded.by_name.find(name).or_else(|| self.hosted.find(name));
        let named = hello.server_name().and_then(find);
        Some(named.unwrap_or_else(|| Arc::clone(&loaded.default)))
    }
}

impl Loaded {
    /// Reads all files; there must be one.
    pub(crate) fn read(files: Vec<CertificateFiles>) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let mut by_name = Named::default();
        let mut default = None;
        for files in &files {
            let key = Arc::new(read_certificate(files)?);
            for name in names(&key) {
                by_name.add(name, &key);
            }
            default.get_or_insert(key);
        }
        let default = default.ok_or(TlsError::Empty { path: PathBuf::new() })?;
        Ok(Self { files, default, by_name, stamps })
    }
}

/// Certificates by the names that they are for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named(HashMap<String, Arc<CertifiedKey>>);

impl Named {
    /// One by all its names.
    fn of(key: &Arc<CertifiedKey>) -> Self {
        let mut named = Self::default();
        names(key).into_iter().for_each(|name| named.add(name, key));
        named
    }

    /// Whoever came first for a name has it.
    fn add(&mut self, name: String, key: &Arc<CertifiedKey>) {
        self.0.entry(name).or_insert_with(|| Arc::clone(key));
    }

    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wildcard = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let found = self.0.get(&name);
        found.or_else(|| self.0.get(&wildcard()?)).map(Arc::clone)
    }
}

fn stamps(files: &[CertificateFiles]) -> Vec<Option<SystemTime>> {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    files.iter().flat_map(|files| [changed(&files.certificate), changed(&files.key)]).collect()
}

/// Reads the authorities that vouch for clients.
///
/// # Errors
/// What keeps a process from starting with this file.
pub fn read_authorities(path: &Path) -> Result<(), TlsError> {
    Authorities::load(path).map(drop)
}

/// Reads a chain and its key, which must go together.
///
/// # Errors
/// What keeps a process from starting with these files.
pub fn read_certificate(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(&files.certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: files.certificate.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem(&files.key))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|source| TlsError::Key { path: files.certificate.clone(), source })
}

/// The DNS names that a certificate is for.
fn names(key: &CertifiedKey) -> Vec<String> {
    let Ok(end_entity) = key.end_entity_cert() else { return Vec::new() };
    let Ok(certificate) = webpki::EndEntityCert::try_from(end_entity) else {
        return Vec::new();
    };
    certificate.valid_dns_names().map(str::to_ascii_lowercase).collect()
}

/// A certificate signed by itself in `directory`, made if there is none.
///
/// # Errors
/// When it cannot be made or written.
pub fn self_signed(directory: &Path, hostname: &str) -> Result<CertificateFiles, TlsError> {
    let files = CertificateFiles {
        certificate: directory.join("self-signed.crt"),
        key: directory.join("self-signed.key"),
    };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    let made = rcgen::generate_simple_self_signed([hostname.to_owned()]).map_err(TlsError::Make)?;
    let written = fs::create_dir_all(directory)
        .and_then(|()| write_whole(&files.key, &made.signing_key.serialize_pem()))
        .and_then(|()| write_whole(&files.certificate, &made.cert.pem()));
    written.map_err(|source| TlsError::Write { path: directory.to_owned(), source })?;
    tracing::info!(
        event = "self_signed_certificate_made",
        certificate = %files.certificate.display()
    );
    Ok(files)
}

/// An error with what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_readable() {
        let directory = tempfile::tempdir().unwrap();
        let files = self_signed(directory.path(), "mx.example.org").unwrap();
        let first = fs::read(&files.certificate).unwrap();
        assert_eq!(self_signed(directory.path(), "mx.example.org").unwrap(), files);
        assert_eq!(fs::read(&files.certificate).unwrap(), first);
        let loaded = Loaded::read(vec![files]).unwrap();
        assert!(loaded.by_name.find("MX.example.org").is_some());
        assert!(loaded.by_name.find("other.example.org").is_none());
    }

    #[test]
    fn chosen_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let write = |dir: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            let path = |end: &str| directory.path().join(format!("{dir}.{end}"));
            fs::write(path("crt"), made.cert.pem()).unwrap();
            fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
            CertificateFiles { certificate: path("crt"), key: path("key") }
        };
        let long: Vec<String> = (0..40).map(|i| format!("name-{i}.example.org")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        let loaded = Loaded::read(vec![
            write("a", &["a.example.org"]),
            write("b", &["b.example.org", "*.wild.example.org"]),
            write("c", &long),
        ])
        .unwrap();
        let a = loaded.by_name.find("a.example.org").unwrap();
        let b = loaded.by_name.find("b.example.org").unwrap();
        assert!(Arc::ptr_eq(&loaded.default, &a));
        assert!(Arc::ptr_eq(&loaded.by_name.find("x.wild.example.org").unwrap(), &b));
        assert!(loaded.by_name.find("wild.example.org").is_none());
        assert!(loaded.by_name.find("name-39.example.org").is_some());
    }

    #[test]
    fn what_is_wrong_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = self_signed(directory.path(), "mx.example.org").unwrap();
        let missing = CertificateFiles { key: directory.path().join("none"), ..files };
        let error = Loaded::read(vec![missing]).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
