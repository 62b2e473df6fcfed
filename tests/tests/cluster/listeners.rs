//! What a listener and a source say of themselves, whom a certificate is of, and what separates a
//! sub-address: in one process, and in roles.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tests::client::Client;
use tests::home::{Home, Kind};
use tests::ledger::content;
use tests::process::{PASSWORD, domain_yaml};
use tests::sink::Sink;
use tests::{maildir, wait};

const LIMIT: Duration = Duration::from_secs(60);
const DOMAIN: &str = "local.test";
const ALICE: &str = "alice@local.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_certificates_in_one_process() -> Result<()> {
    names_and_certificates(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_certificates_in_roles() -> Result<()> {
    names_and_certificates(Kind::Roles).await
}

fn config(data: &Path, authority: &Path, sink: u16) -> String {
    format!(
        "hostname: mx.local.test\ndataDir: {}\ningress:\n  listeners:\n  \
         - kind: relay\n    addresses: [\"127.0.0.1:0\"]\n    hostname: mx2.local.test\n    \
         clientCertificates: {{caFile: {}}}\n  \
         - {{kind: submission, addresses: [\"127.0.0.1:0\"]}}\n\
         delivery:\n  allowPrivateAddresses: true\n  \
         sources: [{{address: 127.0.0.2, name: out1.local.test}}]\n  \
         routes: [{{domain: \"*\", host: \"127.0.0.1\", port: {sink}}}]\n\
         http: {{address: \"127.0.0.1:0\"}}\n",
        data.display(),
        authority.display()
    )
}

async fn names_and_certificates(kind: Kind) -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let partner = Partner::new(&dir.path().join("partners.pem"))?;
    let (authority, port) = (dir.path().join("partners.pem"), sink.address().port());
    let config = |data: &Path| config(data, &authority, port);
    let domain = (DOMAIN, &["alice"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    sub_address_comes_under_a_name(&mut home, partner).await?;
    mail_leaves_by_the_source(&home, &sink).await?;
    home.stop(LIMIT).await
}

/// Whom an authority vouches for.
struct Partner(CertificateDer<'static>, PrivateKeyDer<'static>);

impl Partner {
    fn new(authority_file: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(authority_file, authority.pem())?;
        let params = CertificateParams::new(vec!["mta.partner.test".to_owned()])?;
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &authority)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        Ok(Self(signed.der().clone(), key))
    }
}

async fn sub_address_comes_under_a_name(home: &mut Home, partner: Partner) -> Result<()> {
    let relay = home.ingress().address("relay");
    ensure!(Client::rcpt(relay, "alice-lists@local.test").await? == 550, "- separates nothing");
    let plain = domain_yaml(DOMAIN, &["alice"])?;
    let yaml = plain.replace("  inbound:\n", "  inbound:\n    subAddressSeparators: \"+-\"\n");
    home.change("local.test.yaml", &yaml).await?;
    let mut client = Client::connect(relay).await?;
    client.command("EHLO mta.partner.test", 250).await?;
    let mut client = client.start_tls_as(partner.0, partner.1).await?;
    let hello = client.command("EHLO mta.partner.test", 250).await?;
    ensure!(hello.text.starts_with("250-mx2.local.test"), "{hello:?}");
    let sent = content("L1", "writer@partner.test", "body");
    let recipients = ["alice-lists@local.test"];
    let reply = client.transaction("writer@partner.test", &recipients, &sent).await?;
    ensure!(reply.code == 250, "{reply:?}");
    let mail = home.mda().dir().join("data/mail");
    let message = async || maildir::messages(&mail).ok()?.pop();
    let text = std::fs::read_to_string(wait::until("the message", LIMIT, message).await?)?;
    ensure!(text.contains("(client certificate of mta.partner.test verified)"), "{text}");
    ensure!(text.contains("by mx2.local.test with ESMTPS"), "{text}");
    ensure!(text.contains("Delivered-To: alice-lists@local.test"), "{text}");
    Ok(())
}

async fn mail_leaves_by_the_source(home: &Home, sink: &Sink) -> Result<()> {
    let submission = home.ingress().address("submission");
    let mut client = Client::submission(submission, ALICE, PASSWORD).await?;
    let sent = content("L2", ALICE, "body");
    let reply = client.transaction(ALICE, &["friend@far.test"], &sent).await?;
    ensure!(reply.code == 250, "{reply:?}");
    let received = wait::until("the message", LIMIT, async || sink.received().pop()).await?;
    ensure!(received.hello == "out1.local.test", "{received:?}");
    let source: IpAddr = "127.0.0.2".parse().context("an address")?;
    ensure!(received.client == source, "{received:?}");
    Ok(())
}
