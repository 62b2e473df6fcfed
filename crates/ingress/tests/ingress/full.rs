//! Full mailboxes are refused at RCPT, where nothing has to bounce.

use std::sync::Arc;

use domains::{Quota, Row, Table};

use super::relaying::Unproven;
use super::server::Server;

#[tokio::test]
async fn full_mailboxes_are_refused_as_their_owners_wish() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<alice@example.org>", "250").await;
    server.fill("alice@example.org");
    server.fill("bob@example.org");
    for recipient in ["alice@example.org", "ALICE+x@example.org", "alice.smith@example.org"] {
        let said = "452 4.2.2 Mailbox is full, try again later";
        client.says(&format!("RCPT TO:<{recipient}>"), said).await;
    }
    client.says("RCPT TO:<postmaster@example.org>", "452 4.2.2").await;
    client.says("RCPT TO:<Bob@example.org>", "552 5.2.2 Mailbox is full").await;
    client.says("RCPT TO:<bill@example.org>", "250").await;
    let refused = "ingress_refusals_total{at=\"rcpt\",code=\"452\",status=\"4.2.2\"}";
    assert_eq!(server.metric(refused), 4.0);
    for (id, _) in server.full.all() {
        server.full.remove(&id);
    }
    client.says("RCPT TO:<alice@example.org>", "250").await;
}

/// A group is for all its members: one that is full keeps the others' mail away from nobody.
#[tokio::test]
async fn aliases_are_refused_when_nobody_takes_their_mail() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    server.fill("bob@example.org");
    client.says("RCPT TO:<both@example.org>", "250").await;
    server.fill("alice@example.org");
    // One of the two is to be tried again.
    client.says("RCPT TO:<both@example.org>", "452 4.2.2").await;
    // One is elsewhere.
    client.says("RCPT TO:<team@example.org>", "250").await;
}

#[tokio::test]
async fn those_who_log_in_hear_it_too() {
    let server = Server::start();
    server.fill("bob@example.org");
    let mut client = server.logged_in().await;
    client.says("MAIL FROM:<alice@example.org>", "250").await;
    client.says("RCPT TO:<bob@example.org>", "552 5.2.2").await;
    client.says("RCPT TO:<a@elsewhere.example>", "250").await;
}

/// What is known of a mailbox may outlive its quota, or be a mailbox server's word.
#[tokio::test]
async fn a_mailbox_without_quota_is_never_full_for_good() {
    let server = Server::start();
    server.fill("bob@example.org");
    let table = server.domains.load_full().unwrap();
    let mut rows: Vec<Row> = table.rows().collect();
    for row in &mut rows {
        if let Row::Domain { quota, .. } = row {
            *quota = Quota::default();
        }
    }
    let boundless = Table::from_rows(&rows, table.postmaster().cloned()).unwrap();
    server.domains.store(Some(Arc::new(boundless)));
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<bob@example.org>", "452 4.2.2").await;
}

/// Its owner may wish otherwise by now, or have another quota.
#[tokio::test]
async fn without_a_proof_of_the_table_no_mailbox_is_full_for_good() {
    let server = Server::start_where(Arc::new(Unproven), |_| {});
    server.fill("alice@example.org");
    server.fill("bob@example.org");
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<bob@example.org>", "451 4.3.0").await;
    client.says("RCPT TO:<alice@example.org>", "452 4.2.2").await;
}

/// What was declared to be too large (RFC 1870 §6.1) does not come first.
#[tokio::test]
async fn a_message_that_does_not_fit_is_refused_by_its_declared_size() {
    let server = Server::start();
    server.leave_room("alice@example.org", 5_000);
    server.leave_room("bob@example.org", 5_000);
    let mut client = server.greeted().await;
    for (size, alice, bob, both) in [
        (" SIZE=5001", "452 4.2.2", "552 5.2.2", "452 4.2.2"),
        (" SIZE=5000", "250", "250", "250"),
        (" SIZE=0", "250", "250", "250"),
        ("", "250", "250", "250"),
    ] {
        client.says(&format!("MAIL FROM:<a@example.com>{size}"), "250").await;
        client.says("RCPT TO:<Alice+x@example.org>", alice).await;
        client.says("RCPT TO:<bob@example.org>", bob).await;
        client.says("RCPT TO:<both@example.org>", both).await;
        client.says("RCPT TO:<bill@example.org>", "250").await;
        client.says("RSET", "250").await;
    }
    server.fill("alice@example.org");
    client.says("MAIL FROM:<a@example.com> SIZE=0", "250").await;
    client.says("RCPT TO:<alice@example.org>", "452 4.2.2").await;
}
