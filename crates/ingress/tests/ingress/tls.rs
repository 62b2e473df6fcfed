//! Certificates: by name, and new ones without a restart.

use std::time::Duration;

use ingress::{CertificateFiles, Kind};
use mail_types::Origin;

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
