//! Certificates: by name, and new ones without a restart.

use std::time::Duration;

use ingress::{CertificateFiles, ClientCertificates, Kind};
use mail_types::Origin;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::client::Client;
use super::server::Server;

fn write(files: &CertificateFiles, name: &str) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    made.cert.der().to_vec()
}

#[tokio::test]
async fn by_name_and_reloaded() {
    let directory = tempfile::tempdir().unwrap();
    let files = |name: &str| CertificateFiles {
        certificate: directory.path().join(format!("{name}.crt")),
        key: directory.path().join(format!("{name}.key")),
    };
    let (a, b) = (files("a"), files("b"));
    let (first_a, first_b) = (write(&a, "a.example.org"), write(&b, "b.example.org"));
    let server = Server::start_with(|config| {
        config.tls.certificates = vec![a.clone(), b];
        config.tls.reload_seconds = 1;
    });
    let address = server.address(Kind::Submissions);
    for (name, want) in [
        ("a.example.org", &first_a),
        ("b.example.org", &first_b),
        ("unknown.example.org", &first_a),
    ] {
        let client = Client::connect_tls(address, name).await;
        assert_eq!(client.certificate.as_ref(), Some(want), "{name}");
    }
    let second_a = write(&a, "a.example.org");
    let renewed = async {
        loop {
            let client = Client::connect_tls(address, "a.example.org").await;
            if client.certificate.as_ref() == Some(&second_a) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap();
}

#[tokio::test]
async fn opportunistic_on_relay() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.says("STARTTLS", "220").await;
    let mut client = client.start_tls("mx.example.org").await;
    client.says("EHLO client.example", "250").await;
    let content = "Subject: x\r\n\r\nbody\r\n";
    let reply = client.send_message("a@example.com", "bob@example.org", content).await;
    assert!(reply.starts_with("250"), "{reply}");
    client.says("QUIT", "221").await;
    let stored = server.only_message();
    let Origin::Smtp(origin) = &stored.envelope.origin else { panic!() };
    assert_eq!(origin.protocol, "ESMTPS");
    assert!(origin.tls.as_ref().unwrap().starts_with("TLSv1.3 "), "{origin:?}");
    assert!(stored.text().contains("TLS"), "{}", stored.text());
}

#[tokio::test]
async fn the_made_certificate_is_kept() {
    let server = Server::start();
    assert!(server.directory.path().join("tls/self-signed.crt").exists());
}

#[tokio::test]
async fn a_handshake_that_stalls_ends() {
    let server = Server::start_with(|config| config.limits.tls_handshake_timeout_seconds = 1);
    let mut client = Client::connect(server.address(Kind::Submissions)).await;
    client.send(b"\x16\x03\x01").await;
    client.expect_end().await;
    assert_eq!(server.metric("ingress_tls_handshakes_total{result=\"timeout\"}"), 1.0);
}

/// Signs certificates of clients.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> Shown {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Alice (Sales) \\");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, authority).unwrap();
    (vec![signed.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// The line of Received that names a client's certificate, after a message on port 25.
async fn named(server: &Server, shown: Option<Shown>) -> Option<String> {
    let mut client = server.greeted().await;
    client.says("STARTTLS", "220").await;
    let mut client = match shown {
        None => client.start_tls("mx2.example.org").await,
        Some((chain, key)) => client.start_tls_as("mx2.example.org", chain, key).await,
    };
    client.says("EHLO client.example", "250").await;
    // A certificate is no permission.
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<b@elsewhere.example>", "550").await;
    client.says("RSET", "250").await;
    let content = "Subject: x\r\n\r\nbody\r\n";
    let reply = client.send_message("a@example.com", "bob@example.org", content).await;
    assert!(reply.starts_with("250"), "{reply}");
    let text = server.queue.messages().last().unwrap().text();
    assert!(text.contains("by mx2.example.org with ESMTPS"), "{text}");
    text.lines().find(|line| line.contains("client certificate")).map(|line| line.trim().into())
}

#[tokio::test]
async fn a_client_is_named_by_a_certificate_that_an_authority_vouches_for() {
    let (ours, others) = (authority(), authority());
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("clients.pem");
    std::fs::write(&ca_file, ours.pem()).unwrap();
    let server = Server::start_with(|config| {
        for listener in &mut config.listeners {
            listener.hostname = Some("mx2.example.org".to_owned());
            listener.client_certificates = Some(ClientCertificates { ca_file: ca_file.clone() });
        }
    });
    let greeting = Client::connect(server.address(Kind::Relay)).await.expect("220").await;
    assert!(greeting.starts_with("220 mx2.example.org "), "{greeting}");
    let name = |name: &str| Some(format!("(client certificate of {name} verified)"));
    let with = |names: Vec<SanType>| {
        let shown = certificate(&ours, |params| params.subject_alt_names = names);
        named(&server, Some(shown))
    };
    let dns = SanType::DnsName("mta.example.net".try_into().unwrap());
    let address = SanType::Rfc822Name("alice@example.net".try_into().unwrap());
    assert_eq!(with(vec![dns.clone(), address]).await, name("alice@example.net"));
    assert_eq!(with(vec![dns]).await, name("mta.example.net"));
    assert_eq!(with(Vec::new()).await, name("Alice ?Sales? ?"));
    let expired = |params: &mut CertificateParams| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    };
    for shown in [None, Some(certificate(&others, |_| {})), Some(certificate(&ours, expired))] {
        assert_eq!(named(&server, shown).await, None);
    }
}
