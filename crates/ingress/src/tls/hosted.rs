//! Certificates of hosted domains, as the domain table has them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use domains::{Certificate, Table};
use mail_types::Domain;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::Named;

/// How often it is looked for another table.
const LOOK: Duration = Duration::from_millis(500);

/// What is shown for names of hosted domains, each its own.
#[derive(Debug)]
pub(crate) struct Hosted {
    table: Arc<ArcSwapOption<Table>>,
    shown: ArcSwap<Shown>,
}

#[derive(Debug, Default)]
struct Shown(HashMap<Domain, Own>);

/// The certificate of a domain.
#[derive(Debug)]
struct Own {
    certificate: Arc<Certificate>,
    /// None when nothing can be made of it, which was logged then.
    by_name: Named,
}

impl Hosted {
    pub(crate) fn of(table: Arc<ArcSwapOption<Table>>) -> Self {
        let shown = table.load().as_ref().map(|table| Shown::default().renewed(table));
        Self { shown: ArcSwap::from_pointee(shown.unwrap_or_default()), table }
    }

    /// That of the domain which the name is in, if it is for the name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let domain = table.as_ref()?.nearest(name)?;
        self.shown.load().0.get(domain)?.by_name.find(name)
    }

    /// Until `stop`.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        // The one that `shown` was made of may have been replaced since.
        let mut seen = None;
        let work = async {
            loop {
                tokio::time::sleep(LOOK).await;
                let now = self.table.load_full();
                let is_same = match (&seen, &now) {
                    (Some(seen), Some(now)) => Arc::ptr_eq(seen, now),
                    (seen, now) => seen.is_none() && now.is_none(),
                };
                if let Some(table) = now.as_ref().filter(|_| !is_same) {
                    self.shown.store(Arc::new(self.shown.load().renewed(table)));
                }
                seen = now;
            }
        };
        stop.run_until_cancelled(work).await;
    }
}

impl Shown {
    fn renewed(&self, table: &Table) -> Self {
        // Where the key is missing it is sealed to others.
        let opened = table.certificates().filter(|(_, certificate)| !certificate.key.is_empty());
        let own = opened.map(|(domain, certificate)| {
            let known = self.0.get(domain).filter(|known| known.certificate == *certificate);
            let by_name = match known {
                Some(known) => known.by_name.clone(),
                None => read(domain, certificate).map(|key| Named::of(&key)).unwrap_or_default(),
            };
            (domain.clone(), Own { certificate: Arc::clone(certificate), by_name })
        });
        Self(own.collect())
    }
}

fn read(domain: &Domain, certificate: &Certificate) -> Option<Arc<CertifiedKey>> {
    let wrong = |error: &dyn std::fmt::Display| {
        tracing::warn!(event = "certificate_refused", %domain, %error, "the default is shown");
    };
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().inspect_err(|error| wrong(error)).ok()?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes());
    let key = key.inspect_err(|error| wrong(error)).ok()?;
    let made = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    made.inspect_err(|error| wrong(error)).ok().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use domains::Settings;

    use super::*;

    fn certificate(names: &[&str]) -> Arc<Certificate> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Arc::new(Certificate { chain, key })
    }

    fn table(certificate: Arc<Certificate>) -> Arc<Table> {
        let text = "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {name: \
                    d}\nspec:\n  domain: a.example\n  inbound: {aliases: [{match: postmaster, \
                    to: [x@b.example]}]}\n";
        let mut table = Table::from_yaml([("f", text)], &Settings::default()).unwrap();
        table.set_certificate(&"a.example".parse().unwrap(), certificate);
        Arc::new(table)
    }

    #[tokio::test(start_paused = true)]
    async fn shown_for_names_of_the_domain_and_renewed() {
        let own = certificate(&["mail.a.example", "mx.stolen.example", "*.in.a.example"]);
        let place = Arc::new(ArcSwapOption::from(Some(table(own))));
        let hosted = Arc::new(Hosted::of(place.clone()));
        let first = hosted.find("MAIL.a.example").unwrap();
        assert!(hosted.find("x.in.a.example").is_some());
        assert!(hosted.find("mx.stolen.example").is_none(), "another's name");
        assert!(hosted.find("a.example").is_none());
        let stop = CancellationToken::new();
        let newer = certificate(&["mail.a.example"]);
        place.store(Some(table(newer)));
        let renewed = async {
            while Arc::ptr_eq(&first, &hosted.find("mail.a.example").unwrap()) {
                tokio::time::sleep(LOOK).await;
            }
            stop.cancel();
        };
        let both = async { tokio::join!(hosted.follow(stop.clone()), renewed) };
        tokio::time::timeout(LOOK * 10, both).await.unwrap();
        assert!(hosted.find("x.in.a.example").is_none(), "of the one before");
    }

    #[test]
    fn a_name_is_of_the_nearest_domain() {
        let domain = |domain: &str| {
            format!(
                "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: \
                 {domain}}}\nspec:\n  domain: {domain}\n  inbound: {{aliases: [{{match: \
                 postmaster, to: [x@b.example]}}]}}\n"
            )
        };
        let (above, below) = (domain("a.example"), domain("in.a.example"));
        let files = [("above", above.as_str()), ("below", below.as_str())];
        let mut table = Table::from_yaml(files, &Settings::default()).unwrap();
        let of_above = certificate(&["mail.a.example", "mail.in.a.example", "*.in.a.example"]);
        table.set_certificate(&"a.example".parse().unwrap(), of_above);
        let place = Arc::new(ArcSwapOption::from_pointee(table));
        let hosted = Hosted::of(place);
        assert!(hosted.find("mail.a.example").is_some());
        assert!(hosted.find("mail.in.a.example").is_none(), "another tenant's name");
        assert!(hosted.find("x.in.a.example").is_none(), "another tenant's name");
    }

    #[test]
    fn what_cannot_be_read_or_is_sealed_is_not_shown() {
        let good = Arc::unwrap_or_clone(certificate(&["mail.a.example"]));
        let another = Arc::unwrap_or_clone(certificate(&["mail.a.example"]));
        for bad in [
            Certificate { key: String::new(), ..good.clone() },
            Certificate { key: another.key, ..good.clone() },
            Certificate { chain: "none".to_owned(), ..good },
        ] {
            let place = Arc::new(ArcSwapOption::from(Some(table(Arc::new(bad)))));
            assert!(Hosted::of(place).find("mail.a.example").is_none());
        }
    }
}
