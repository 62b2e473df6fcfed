//! What aliases lead elsewhere, and the way back of its bounces.

use mail_types::ReversePath;
use queue::NextHop;

use super::client::Client;
use super::server::Server;

const MESSAGE: &str = "From: a@far.example\r\nSubject: x\r\n\r\nbody\r\n";

/// Carol is elsewhere, and `team` leads to her.
async fn forward(server: &Server, client: &mut Client, from: &str) -> (ReversePath, String) {
    let reply = client.send_message(from, "team@example.org", MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    let stored = server.queue.messages().pop().unwrap();
    let forwarded: Vec<_> = stored.jobs.iter().filter(|job| job.forward.is_some()).collect();
    assert_eq!(forwarded.len(), 1, "what stays here is not forwarded");
    assert_eq!(forwarded[0].recipients[0].address.to_string(), "carol@elsewhere.example");
    let forward = forwarded[0].forward.clone().unwrap();
    assert_eq!(forward.delivered_to.to_string(), "team@example.org");
    (forward.reverse_path, stored.envelope.reverse_path.to_string())
}

#[tokio::test]
async fn mail_leaves_under_the_aliases_domain_and_its_bounce_comes_back() {
    let server = Server::start();
    let mut client = server.greeted().await;
    let (sent_as, sender) = forward(&server, &mut client, "a@far.example").await;
    assert_eq!(sender, "<a@far.example>", "our own DSNs go straight to the sender");
    let sent_as = sent_as.mailbox().unwrap().to_string();
    assert!(sent_as.starts_with("SRS0="), "{sent_as}");
    assert!(sent_as.ends_with("=far.example=a@example.org"), "{sent_as}");

    let reply = client.send_message("", &sent_as, MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    let bounce = server.queue.messages().pop().unwrap();
    assert!(bounce.envelope.reverse_path.is_null());
    assert_eq!(bounce.envelope.tenant.as_str(), "tenant-a");
    assert_eq!(bounce.jobs.len(), 1);
    assert_eq!(bounce.jobs[0].recipients[0].address.to_string(), "a@far.example");
    let far = bounce.jobs[0].recipients[0].address.host().clone();
    assert_eq!(bounce.jobs[0].next_hop, NextHop::smtp(&far));
}

#[tokio::test]
async fn only_bounces_and_only_of_ours_come_back() {
    let server = Server::start();
    let mut client = server.greeted().await;
    let (sent_as, _) = forward(&server, &mut client, "a@far.example").await;
    let sent_as = sent_as.mailbox().unwrap().to_string();
    client.says("MAIL FROM:<spam@far.example>", "250").await;
    client.says(&format!("RCPT TO:<{sent_as}>"), "550 5.1.1").await;
    client.says("RSET", "250").await;
    client.says("MAIL FROM:<>", "250").await;
    let forged = sent_as.replace("far.example", "victim.example");
    client.says(&format!("RCPT TO:<{forged}>"), "550 5.1.1").await;
    let elsewhere = sent_as.replace("@example.org", "@elsewhere.example");
    client.says(&format!("RCPT TO:<{elsewhere}>"), "550 5.7.1").await;
    client.says(&format!("RCPT TO:<{}>", sent_as.to_lowercase()), "250").await;
}

#[tokio::test]
async fn our_own_senders_and_the_null_sender_stay() {
    let server = Server::start();
    let mut alice = server.logged_in().await;
    let message = MESSAGE.replace("a@far.example", "alice@example.org");
    let reply = alice.send_message("alice@example.org", "away@example.org", &message).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(sent_as(&server), "<alice@example.org>");
    let mut client = server.greeted().await;
    let (sent_as, _) = forward(&server, &mut client, "").await;
    assert!(sent_as.is_null());
}

/// Where the last message goes elsewhere, under which path.
fn sent_as(server: &Server) -> String {
    let jobs = server.queue.messages().pop().unwrap().jobs;
    let mut forwards = jobs.into_iter().filter_map(|job| job.forward);
    forwards.next().unwrap().reverse_path.to_string()
}

/// SPF would vouch for it to whomever it is led to.
#[tokio::test]
async fn a_stranger_sends_nothing_under_a_path_of_ours() {
    let server = Server::start();
    let mut client = server.greeted().await;
    let mut send = async |from: &str| {
        let message = MESSAGE.replace("a@far.example", from);
        let reply = client.send_message("bob@example.org", "away@example.org", &message).await;
        assert!(reply.starts_with("250"), "{reply}");
        sent_as(&server)
    };
    // From another's domain: under the alias' domain by SRS, which that From is nothing to.
    let path = send("a@far.example").await;
    assert!(
        path.starts_with("<SRS0=") && path.ends_with("=example.org=bob@example.org>"),
        "{path}"
    );
    for from in ["bob@example.org", "ceo@x.example.org", "<"] {
        assert_eq!(send(from).await, "<>", "From: {from}");
    }
    // A gateway domain has a server of its own, and its SPF record names that one.
    let reply = client.send_message("erin@listed.example", "away@example.org", MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert!(sent_as(&server).contains("=listed.example=erin@example.org"), "{}", sent_as(&server));
}

#[tokio::test]
async fn a_loop_is_cut_where_it_closes() {
    let server = Server::start();
    let mut client = server.greeted().await;
    let again = format!("Delivered-To: Away@example.org\r\n{MESSAGE}");
    let reply = client.send_message("a@far.example", "away@example.org", &again).await;
    assert!(reply.starts_with("554 5.4.6"), "{reply}");
    let other = format!("Delivered-To: carol@elsewhere.example\r\n{MESSAGE}");
    let reply = client.send_message("a@far.example", "away@example.org", &other).await;
    assert!(reply.starts_with("250"), "{reply}");
    let reply = client.send_message("a@far.example", "alice@example.org", &again).await;
    assert!(reply.starts_with("250"), "she does not forward: {reply}");

    client.says("MAIL FROM:<a@far.example>", "250").await;
    client.says("RCPT TO:<away@example.org>", "250").await;
    client.says("RCPT TO:<bob@example.org>", "250").await;
    client.says("DATA", "354").await;
    client.send(format!("{again}.\r\n").as_bytes()).await;
    client.expect("250").await;
    let jobs = server.queue.messages().pop().unwrap().jobs;
    assert_eq!(jobs.len(), 1, "others get it");
    assert_eq!(jobs[0].recipients[0].address.to_string(), "bob@example.org");
}

/// Under our reverse-path SPF would vouch for a From that a stranger wrote.
#[tokio::test]
async fn nobody_gets_our_word_for_a_from_of_ours() {
    let server = Server::start();
    let mut client = server.greeted().await;
    for from in ["ceo@example.org", "ceo@x.example.org", "x@far.example, ceo@example.org", "<"] {
        let message = MESSAGE.replace("a@far.example", from);
        let reply = client.send_message("a@far.example", "away@example.org", &message).await;
        assert!(reply.starts_with("250"), "{reply}");
        let forward = server.queue.messages().pop().unwrap().jobs[0].forward.clone().unwrap();
        assert_eq!(forward.reverse_path.to_string(), "<a@far.example>", "From: {from}");
    }
}
