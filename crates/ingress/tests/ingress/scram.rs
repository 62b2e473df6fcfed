//! Logging in without sending the password.

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domains::Table;
use domains::scram::Keys;
use ingress::Kind;

use super::client::Client;
use super::server::{PASSWORD, Server, login, table_text};

/// As alice's only password; bob has one that is no SCRAM, carol is nobody.
fn table() -> Table {
    let keys = Keys::new(PASSWORD, [9; 16]).to_string();
    let text = table_text();
    let (before, rest) = text.split_once("hash: \"").unwrap();
    let (hash, rest) = rest.split_once('"').unwrap();
    let bob = format!("address: bob@example.org\n  passwords: [{{name: main, hash: \"{hash}\"}}]");
    let text = format!("{before}hash: \"{keys}\"{rest}").replace("address: bob@example.org", &bob);
    Table::from_yaml([("t", text.as_str())], &Default::default()).unwrap()
}

fn server() -> Server {
    let server = Server::start_with(|config| config.auth.failures_per_session_max = 10);
    server.domains.store(Some(Arc::new(table())));
    server
}

async fn greeted(server: &Server) -> Client {
    let address = server.address(Kind::Submissions);
    let mut client = Client::connect_tls(address, "mx.example.org").await;
    client.expect("220").await;
    client.says("EHLO client.example", "250").await;
    client
}

fn decoded(reply: &str) -> String {
    let text = reply.strip_prefix("334 ").unwrap_or_else(|| panic!("{reply}"));
    String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

/// The client's side (RFC 5802 §3), up to its proof.
struct Proving {
    message: String,
    /// What the server proves itself by.
    signature: String,
    salt: String,
    iterations: u32,
}

async fn prove(client: &mut Client, user: &str, password: &str) -> Proving {
    let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
    let first = STANDARD.encode(format!("n,,{bare}"));
    let challenge = decoded(&client.says(&format!("AUTH SCRAM-SHA-256 {first}"), "334 ").await);
    let field = |name: &str| {
        let found = challenge.split(',').find_map(|field| field.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{challenge}")).to_owned()
    };
    let (nonce, salt, iterations) = (field("r="), field("s="), field("i=").parse().unwrap());
    assert!(nonce.starts_with("fyko+d2lbbFgONRv9qkxdawL") && nonce.len() > 40, "{nonce}");
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        NonZeroU32::new(iterations).unwrap(),
        &STANDARD.decode(&salt).unwrap(),
        password.as_bytes(),
        &mut salted,
    );
    let key = mac(&salted, b"Client Key");
    let without_proof = format!("c=biws,r={nonce}");
    let signed = format!("{bare},{challenge},{without_proof}");
    let stored = digest::digest(&digest::SHA256, &key);
    let signature = mac(stored.as_ref(), signed.as_bytes());
    let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
    let server = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
    Proving {
        message: STANDARD.encode(format!("{without_proof},p={}", STANDARD.encode(proof))),
        signature: format!("v={}", STANDARD.encode(server)),
        salt,
        iterations,
    }
}

#[tokio::test]
async fn both_sides_prove_that_they_know_the_password() {
    let server = server();
    let mut client = greeted(&server).await;
    let proving = prove(&mut client, "alice@example.org", PASSWORD).await;
    let verified = client.says(&proving.message, "334 ").await;
    assert_eq!(decoded(&verified), proving.signature);
    client.says("MAIL FROM:<alice@example.org>", "501").await;
    // That was no answer to the challenge: nobody is logged in.
    client.says("MAIL FROM:<alice@example.org>", "530 5.7.0").await;
    let proving = prove(&mut client, "Alice@example.org", PASSWORD).await;
    client.says(&proving.message, "334 ").await;
    client.says("", "235 2.7.0").await;
    let content = "From: alice@example.org\r\n\r\nhi\r\n";
    let reply = client.send_message("alice@example.org", "carol@elsewhere.example", content).await;
    assert!(reply.starts_with("250"), "{reply}");
    let stored = server.only_message();
    assert_eq!(stored.envelope.identity.as_deref(), Some("alice@example.org"));
    assert!(stored.text().contains("with ESMTPSA"), "{}", stored.text());
    assert_eq!(server.metric("ingress_authentications_total{result=\"accepted\"}"), 1.0);
}

#[tokio::test]
async fn the_same_password_by_plain_and_not_another() {
    let server = server();
    let mut client = greeted(&server).await;
    client.says(&login("alice@example.org", "wrong"), "535 5.7.8").await;
    client.says(&login("alice@example.org", PASSWORD), "235 2.7.0").await;
}

/// A wrong password, a mailbox without keys and no mailbox at all sound alike.
#[tokio::test]
async fn who_has_keys_is_not_told() {
    let server = server();
    let mut client = greeted(&server).await;
    for (user, password) in [
        ("alice@example.org", "wrong"),
        ("bob@example.org", PASSWORD),
        ("carol@example.org", PASSWORD),
        ("nobody", PASSWORD),
    ] {
        let once = prove(&mut client, user, password).await;
        client.says("*", "501 5.7.0").await;
        let proving = prove(&mut client, user, password).await;
        assert_eq!(proving.salt, once.salt, "{user} has another salt each time");
        assert_eq!((proving.salt.len(), proving.iterations), (24, 100_000), "{user}");
        client.says(&proving.message, "535 5.7.8").await;
    }
    client.says("MAIL FROM:<alice@example.org>", "530 5.7.0").await;
    assert_eq!(server.metric("ingress_authentications_total{result=\"rejected\"}"), 4.0);
}

#[tokio::test]
async fn what_is_no_scram_is_refused() {
    let server = server();
    let mut client = greeted(&server).await;
    for first in ["n,,n=,r=abc", "p=tls-unique,,n=alice@example.org,r=abc", "n,a=bob,n=a,r=b"] {
        let first = STANDARD.encode(first);
        client.says(&format!("AUTH SCRAM-SHA-256 {first}"), "501 5.5.2").await;
    }
    prove(&mut client, "alice@example.org", PASSWORD).await;
    client.says(&STANDARD.encode("c=biws,r=abc"), "535 5.7.8").await;
}

/// A client would prefer it, and could not log in.
#[tokio::test]
async fn it_is_offered_where_somebody_has_keys() {
    let server = Server::start();
    let mut client = greeted(&server).await;
    client.says("AUTH SCRAM-SHA-256", "504 5.5.4").await;
    server.domains.store(Some(Arc::new(table())));
    let mut client = greeted(&server).await;
    client.says("AUTH SCRAM-SHA-256", "334 ").await;
}

#[tokio::test]
async fn guessing_is_stopped_for_the_address() {
    let server = Server::start_with(|config| config.auth.failures_per_client_max = 1);
    server.domains.store(Some(Arc::new(table())));
    let mut client = greeted(&server).await;
    let proving = prove(&mut client, "alice@example.org", "guess").await;
    client.says(&proving.message, "535").await;
    let first = STANDARD.encode("n,,n=alice@example.org,r=abc");
    client.says(&format!("AUTH SCRAM-SHA-256 {first}"), "421 4.7.0").await;
}

/// Connections that have begun before are no more guesses.
#[tokio::test]
async fn a_guess_that_has_begun_is_stopped_too() {
    let server = Server::start_with(|config| config.auth.failures_per_client_max = 1);
    server.domains.store(Some(Arc::new(table())));
    let (mut first, mut second) = (greeted(&server).await, greeted(&server).await);
    let guess = prove(&mut first, "alice@example.org", "guess").await;
    let other = prove(&mut second, "alice@example.org", PASSWORD).await;
    first.says(&guess.message, "535").await;
    second.says(&other.message, "421 4.7.0").await;
    assert_eq!(server.metric("ingress_authentications_total{result=\"blocked\"}"), 1.0);
}
