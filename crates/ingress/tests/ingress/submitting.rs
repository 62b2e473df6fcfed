//! Mail from users: who they are, and what they may call themselves.

use std::sync::Arc;

use ingress::Kind;

use super::client::Client;
use super::server::{PASSWORD, Server, login, table};

#[tokio::test]
async fn from_login_to_the_world() {
    let server = Server::start();
    let mut client = server.logged_in().await;
    let content = "From: Alice <alice@example.org>\r\nReturn-Path: <x@example.com>\r\n\r\nhi\r\n";
    let reply = client.send_message("alice@example.org", "carol@elsewhere.example", content).await;
    assert!(reply.starts_with("250"), "{reply}");
    let stored = server.only_message();
    assert_eq!(stored.envelope.identity.as_deref(), Some("alice@example.org"));
    assert_eq!(stored.envelope.tenant.as_str(), "tenant-a");
    assert_eq!(stored.jobs[0].next_hop.to_string(), "smtp:elsewhere.example");
    let text = stored.text();
    assert!(text.contains("with ESMTPSA"), "{text}");
    assert!(text.contains("\r\nDate: ") && text.contains("\r\nMessage-ID: <"), "{text}");
    assert!(!text.contains("Return-Path"), "{text}");
}

#[tokio::test]
async fn what_is_there_is_not_added() {
    let server = Server::start();
    let mut client = server.logged_in().await;
    let content = "Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-Id: <1@example.org>\r\n\
                   From: alice@example.org\r\n\r\nhi\r\n";
    client.send_message("alice@example.org", "bob@example.org", content).await;
    let text = server.only_message().text();
    assert_eq!(text.to_ascii_lowercase().matches("message-id:").count(), 1, "{text}");
    assert_eq!(text.matches("\r\nDate:").count(), 1, "{text}");
}

#[tokio::test]
async fn sender_and_from_are_bound_to_the_identity() {
    let server = Server::start();
    let mut client = server.logged_in().await;
    for (from, want) in [
        ("bob@example.org", "553 5.7.1"),
        ("alice@elsewhere.example", "553 5.7.1"),
        ("alice.smith@example.org", "250"),
    ] {
        client.says(&format!("MAIL FROM:<{from}>"), want).await;
        client.says("RSET", "250").await;
    }
    for (sender, header, want) in [
        ("alice@example.org", "From: alice+list@example.org\r\n", "250"),
        ("alice@example.org", "From: bob@example.org\r\n", "550 5.7.1"),
        ("", "From: bob@example.org\r\n", "550 5.7.1"),
        ("", "From: alice@example.org\r\n", "250"),
        ("alice@example.org", "From: alice@example.org, bob@example.org\r\n", "550 5.7.1"),
        ("alice@example.org", "From: a@example.org\r\nFrom: alice@example.org\r\n", "550"),
        ("alice@example.org", "from : bob@example.org\r\n", "550"),
        ("alice@example.org", "From: \"bob@example.org\" <alice@example.org>\r\n", "250"),
        ("alice@example.org", "From: alice@example.org (bob@example.org)\r\n", "250"),
        ("alice@example.org", "From: <<alice@example.org>\r\n", "550"),
        ("alice@example.org", "Subject: no from\r\n", "550"),
    ] {
        let content = format!("{header}\r\nbody\r\n");
        let reply = client.send_message(sender, "bob@example.org", &content).await;
        assert!(reply.starts_with(want), "{header:?}: {reply}");
    }
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users_sound_alike() {
    let server = Server::start();
    let mut replies = Vec::new();
    for (user, password) in [("alice@example.org", "wrong"), ("nobody@example.org", PASSWORD)] {
        let mut client =
            Client::connect_tls(server.address(Kind::Submissions), "mx.example.org").await;
        client.expect("220").await;
        client.says("EHLO client.example", "250").await;
        replies.push(client.says(&login(user, password), "535 5.7.8").await);
        client.says("MAIL FROM:<alice@example.org>", "530 5.7.0").await;
    }
    assert_eq!(replies[0], replies[1]);
    assert_eq!(server.metric("ingress_authentications_total{result=\"rejected\"}"), 2.0);
}

#[tokio::test]
async fn guessing_is_stopped_for_the_address() {
    let server = Server::start_with(|config| config.auth.failures_per_client_max = 2);
    for want in ["535", "535", "421 4.7.0"] {
        let mut client =
            Client::connect_tls(server.address(Kind::Submissions), "mx.example.org").await;
        client.expect("220").await;
        client.says("EHLO client.example", "250").await;
        client.says(&login("alice@example.org", "guess"), want).await;
    }
    assert_eq!(server.metric("ingress_authentications_total{result=\"blocked\"}"), 1.0);
}

#[tokio::test]
async fn nothing_goes_without_tls_and_auth() {
    let server = Server::start();
    let mut client = Client::connect(server.address(Kind::Submission)).await;
    client.expect("220").await;
    client.says("EHLO client.example", "250").await;
    client.says(&login("alice@example.org", PASSWORD), "538 5.7.11").await;
    client.says("MAIL FROM:<alice@example.org>", "530 5.7.0").await;
    client.says("RCPT TO:<bob@example.org>", "503").await;
}

/// A session does not outlast the password it was opened with.
#[tokio::test]
async fn a_revoked_password_ends_the_login() {
    let server = Server::start();
    let mut kept = server.logged_in().await;
    kept.says("MAIL FROM:<alice@example.org>", "250").await;
    kept.says("RSET", "250").await;
    // The same password, but a new hash: whoever knew the old one must log in again.
    server.domains.store(Some(Arc::new(table())));
    kept.says("MAIL FROM:<alice@example.org>", "421 4.7.0").await;
    kept.expect_end().await;
    let mut again = server.logged_in().await;
    again.says("MAIL FROM:<alice@example.org>", "250").await;
    again.says("RCPT TO:<carol@elsewhere.example>", "250").await;
}
