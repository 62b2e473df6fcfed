//! How much those who log in may send.

use std::sync::Arc;

use domains::Table;
use ingress::{Config, Kind};
use senders::LastUseStore;

use super::client::Client;
use super::memory_queue::Fault;
use super::server::{PASSWORD, Server, hash, login, table_text};

const CONTENT: &str = "From: alice@example.org\r\n\r\nhi\r\n";

fn at_most(mailbox: u32, domain: u32) -> impl FnOnce(&mut Config) {
    move |config| {
        config.sending_limits.mailbox_recipients_per_hour = Some(mailbox);
        config.sending_limits.domain_recipients_per_hour = Some(domain);
    }
}

async fn rcpts(client: &mut Client, count: usize) {
    client.says("MAIL FROM:<alice@example.org>", "250").await;
    for n in 0..count {
        client.says(&format!("RCPT TO:<u{n}@elsewhere.example>"), "250 2.1.5").await;
    }
}

async fn deliver(client: &mut Client, content: &str, want: &str) {
    client.says("DATA", "354").await;
    client.send(content.as_bytes()).await;
    client.send(b".\r\n").await;
    client.expect(want).await;
}

#[tokio::test]
async fn who_has_sent_enough_waits() {
    let server = Server::start_with(at_most(3, 100));
    let mut client = server.logged_in().await;
    rcpts(&mut client, 2).await;
    deliver(&mut client, CONTENT, "250").await;
    rcpts(&mut client, 1).await;
    let reply = client.says("RCPT TO:<one@toomany.example>", "450 4.7.1").await;
    let text = "You send to 3 recipients an hour at most; try again in 6";
    assert!(reply.contains(text) && reply.ends_with(" minutes"), "{reply}");
    // The recipients that there was room for get it.
    deliver(&mut client, CONTENT, "250").await;
    assert_eq!(server.metric("ingress_sending_limited_total{scope=\"mailbox\"}"), 1.0);
    // Also in another session, and to recipients of ours.
    let mut other = server.logged_in().await;
    other.says("MAIL FROM:<alice@example.org>", "250").await;
    other.says("RCPT TO:<bob@example.org>", "450 4.7.1").await;
    let refused = "ingress_refusals_total{at=\"rcpt\",code=\"450\",status=\"4.7.1\"}";
    assert_eq!(server.metric(refused), 2.0);
    // Others send to us as before.
    let mut relay = server.greeted().await;
    relay.begin("carol@elsewhere.example", "alice@example.org").await;
}

#[tokio::test]
async fn what_is_not_accepted_does_not_count() {
    let server = Server::start_with(at_most(2, 100));
    let mut client = server.logged_in().await;
    for content in ["From: carol@elsewhere.example\r\n\r\nhi\r\n", "no header at all\r\n"] {
        rcpts(&mut client, 2).await;
        deliver(&mut client, content, "550").await;
    }
    rcpts(&mut client, 2).await;
    client.says("RSET", "250").await;
    rcpts(&mut client, 2).await;
    drop(client);
    server.until_metric("ingress_connections_open", 0.0).await;
    let mut client = server.logged_in().await;
    server.queue.commit.lock().unwrap().push_back(Fault::Unavailable);
    rcpts(&mut client, 2).await;
    deliver(&mut client, CONTENT, "45").await;
    rcpts(&mut client, 2).await;
    deliver(&mut client, CONTENT, "250").await;
    client.says("MAIL FROM:<alice@example.org>", "250").await;
    client.says("RCPT TO:<one@toomany.example>", "450 4.7.1").await;
}

#[tokio::test]
async fn a_domain_has_a_limit_too() {
    let server = Server::start_with(at_most(100, 2));
    let mut client = server.logged_in().await;
    rcpts(&mut client, 2).await;
    let reply = client.says("RCPT TO:<one@toomany.example>", "450 4.7.1").await;
    assert!(reply.contains("Your domain sends to 2 recipients an hour at most"), "{reply}");
    assert_eq!(server.metric("ingress_sending_limited_total{scope=\"domain\"}"), 1.0);
}

/// What resources say counts more than the configuration, at once when they change.
#[tokio::test]
async fn resources_say_otherwise() {
    let server = Server::start_with(at_most(1, 1));
    let with = |mailbox: u32, domain: u32| {
        let limits = |limit| format!("sendingLimits: {{recipientsPerHour: {limit}}}");
        let text = table_text();
        let alice = format!("  {}\n  aliases: [alice.smith", limits(mailbox));
        let text = text.replacen("  aliases: [alice.smith", &alice, 1);
        let inbound = format!("  {}\n  inbound:", limits(domain));
        Table::from_yaml([("t", &*text.replacen("  inbound:", &inbound, 1))], &Default::default())
    };
    server.domains.store(Some(Arc::new(with(3, 4).unwrap())));
    let mut client = server.logged_in().await;
    rcpts(&mut client, 3).await;
    client.says("RCPT TO:<one@toomany.example>", "450 4.7.1").await;
    deliver(&mut client, CONTENT, "250").await;
    server.domains.store(Some(Arc::new(with(9, 4).unwrap())));
    let mut client = server.logged_in().await;
    rcpts(&mut client, 1).await;
    let reply = client.says("RCPT TO:<one@toomany.example>", "450 4.7.1").await;
    assert!(reply.contains("Your domain sends to 4 "), "{reply}");
}

/// A name, a time and the listener: nothing of the client.
#[tokio::test]
async fn a_login_is_remembered() {
    let server = Server::start();
    let _client = server.logged_in().await;
    let used = async {
        loop {
            let uses = server.last_uses.of("alice@example.org").await.unwrap();
            match uses.of("main") {
                Some(last_use) => return last_use.clone(),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let patience = std::time::Duration::from_secs(20);
    let used = tokio::time::timeout(patience, used).await.expect("in time");
    assert_eq!(used.by, "submission");
    assert!(runtime::clock::now().since(used.at) < patience);
}

/// Revoking is to leave it out: the others let in as before.
#[tokio::test]
async fn a_password_is_revoked_alone() {
    let server = Server::start();
    let text = table_text();
    let end = "}]\n---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\nmetadata: { name: bob";
    let two = format!("}}, {{ name: phone, hash: \"{}\" {end}", hash("battery staple"));
    let both = text.replacen(end, &two, 1);
    assert_ne!(both, text);
    let put = |text: &str| {
        let table = Table::from_yaml([("t", text)], &Default::default()).unwrap();
        server.domains.store(Some(Arc::new(table)));
    };
    let attempt = async |password: &str, want: &str| {
        let address = server.address(Kind::Submissions);
        let mut client = Client::connect_tls(address, "mx.example.org").await;
        client.expect("220").await;
        client.says("EHLO client.example", "250").await;
        client.says(&login("alice@example.org", password), want).await;
        client
    };
    put(&both);
    let mut phone = attempt("battery staple", "235").await;
    let mut main = attempt(PASSWORD, "235").await;
    put(&text);
    attempt("battery staple", "535 5.7.8").await;
    phone.says("MAIL FROM:<alice@example.org>", "421 4.7.0").await;
    main.says("MAIL FROM:<alice@example.org>", "250").await;
    attempt(PASSWORD, "235").await;
}
