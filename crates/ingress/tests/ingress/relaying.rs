//! Never an open relay: every trick gets a 5xx at RCPT, from anybody who is not logged in.

use std::sync::Arc;

use super::server::Server;

#[tokio::test]
async fn open_relay_tricks() {
    let server = Server::start_with(|config| config.limits.errors_max = 100);
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<spam@example.org>", "250").await;
    for recipient in [
        "victim@victim.example",
        "victim%victim.example@example.org",
        "victim%victim.example@[127.0.0.1]",
        "victim%victim.example@mx.example.org",
        "\"victim@victim.example\"@example.org",
        "\"victim%victim.example\"@example.org",
        "victim@victim.example@example.org",
        "\"victim@victim.example\"",
        "victim%victim.example",
        "victim!victim.example@example.org",
        "victim.example!victim@example.org",
        "victim.example!victim",
        "@example.org:victim@victim.example",
        "@[127.0.0.1]:victim@victim.example",
        "@example.org,@mx.example.org:victim@victim.example",
        "victim@victim.example,bob@example.org",
        "victim@[192.0.2.7]",
        "victim@[IPv6:2001:db8::7]",
        "victim@example.org.victim.example",
        "victim@sub.example.org",
        "victim@localhost",
        "victim@",
        "@victim.example",
        "\"\"@victim.example",
        "bob@example.org.",
        "bob@EXAMPLE.ORG@victim.example",
        "\"bob@example.org\\\"\"@victim.example",
        "bob@example。org",
        "SRS0=x=y=victim.example=victim@example.org",
    ] {
        client.send(format!("RCPT TO:<{recipient}>\r\n").as_bytes()).await;
        let reply = client.reply().await;
        assert!(reply.starts_with('5'), "{recipient}: {reply}");
    }
    client.says("RCPT TO:<bob@EXAMPLE.org>", "250 2.1.5").await;
}

#[tokio::test]
async fn recipients_are_known_at_rcpt() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<nobody@example.org>", "550 5.1.1").await;
    client.says("RCPT TO:<a@elsewhere.example>", "550 5.7.1").await;
    client.says("RCPT TO:<Bob@example.org>", "250 2.1.5").await;
    let refused = "ingress_refusals_total{at=\"rcpt\",code=\"550\",status=\"5.1.1\"}";
    assert_eq!(server.metric(refused), 1.0);
}

/// What the table lacks may have been added elsewhere.
#[tokio::test]
async fn without_a_proof_everybody_may_exist() {
    let server = Server::start_where(Arc::new(Unproven), |_| {});
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<nobody@example.org>", "451 4.3.0").await;
    client.says("RCPT TO:<a@elsewhere.example>", "451 4.3.0").await;
    client.says("RCPT TO:<alice@example.org>", "250").await;
}

/// The table may not be the one in force.
pub(super) struct Unproven;

#[async_trait::async_trait]
impl domains::Absence for Unproven {
    async fn is_proven(&self, _: &Arc<domains::Table>) -> bool {
        false
    }
}

/// Only a proven absence is a 550.
#[tokio::test]
async fn without_a_table_everybody_may_exist() {
    let server = Server::start();
    server.domains.store(None);
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<nobody@example.org>", "451 4.3.0").await;
    client.says("RCPT TO:<a@elsewhere.example>", "451 4.3.0").await;
    server.domains.store(Some(Arc::new(super::server::table())));
    client.says("RCPT TO:<bob@example.org>", "250").await;
}
