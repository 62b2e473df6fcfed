//! Messages that are accepted, and what is stored of them.

use std::net::SocketAddr;

use ingress::Kind;
use mail_types::{BodyType, Notify, Origin, Ret};
use queue::NextHop;

use super::client::Client;
use super::server::Server;

const MESSAGE: &str = "From: a@example.com\r\nSubject: x\r\n\r\nbody\r\n";

#[tokio::test]
async fn envelope_and_content_arrive_whole() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client
        .says("MAIL FROM:<a@example.com> RET=HDRS ENVID=e+2B1 BODY=8BITMIME SIZE=100", "250")
        .await;
    let rcpt = "RCPT TO:<alice+tag@example.org> NOTIFY=SUCCESS ORCPT=rfc822;o@example.net";
    client.says(rcpt, "250").await;
    client.says("DATA", "354").await;
    client.send(format!("{MESSAGE}..dot\r\n.\r\n").as_bytes()).await;
    let reply = client.expect("250 2.0.0 Ok: queued as ").await;
    client.says("QUIT", "221").await;
    client.expect_end().await;

    let stored = server.only_message();
    let envelope = &stored.envelope;
    assert_eq!(envelope.reverse_path.to_string(), "<a@example.com>");
    assert_eq!(envelope.ret, Some(Ret::Hdrs));
    assert_eq!(envelope.envid.as_ref().unwrap().as_str(), "e+1");
    assert_eq!(envelope.body, BodyType::EightBitMime);
    assert_eq!(envelope.tenant.as_str(), "tenant-a");
    assert_eq!(envelope.identity, None);
    assert_eq!(envelope.trace_parent.as_ref().map(String::len), Some(55));
    assert_eq!(envelope.expires.since(envelope.arrival).as_secs(), 5 * 24 * 3600);
    let Origin::Smtp(origin) = &envelope.origin else { panic!("{:?}", envelope.origin) };
    assert_eq!((&*origin.helo, &*origin.protocol), ("client.example", "ESMTP"));
    assert_eq!(stored.head.header, "From: a@example.com\r\nSubject: x\r\n\r\n");
    assert_eq!(stored.body, b"body\r\n.dot\r\n");
    assert_eq!(stored.body_octets, stored.body.len());
    let recipient = &stored.jobs[0].recipients[0];
    assert_eq!(recipient.address.to_string(), "alice+tag@example.org");
    assert_eq!(recipient.orcpt.as_ref().unwrap().to_string(), "rfc822;o@example.net");
    let success = Notify::On { success: true, failure: false, delay: false };
    assert_eq!(recipient.notify, Some(success));
    let id = reply.rsplit(' ').next().unwrap();
    let text = stored.text();
    let (received, _) = text.split_once("\r\nFrom:").unwrap();
    assert!(received.starts_with("Received: from client.example ("), "{received}");
    for part in ["by mx.example.org", "with ESMTP", id, "for <alice+tag@example.org>"] {
        assert!(received.contains(part), "{part} in {received}");
    }
    assert!(!text.contains("Return-Path"));
    assert_eq!(server.metric("ingress_messages_total"), 1.0);
}

#[tokio::test]
async fn one_job_per_next_hop_and_nobody_twice() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<>", "250").await;
    for recipient in ["team", "alice.smith", "alice", "POSTMASTER"] {
        client.says(&format!("RCPT TO:<{recipient}@example.org>"), "250").await;
    }
    client.says("RCPT TO:<PostMaster>", "250 2.1.5").await;
    client.says("DATA", "354").await;
    client.send(format!("{MESSAGE}.\r\n").as_bytes()).await;
    client.expect("250").await;
    let stored = server.only_message();
    let mut jobs: Vec<(String, Vec<String>)> = stored
        .jobs
        .iter()
        .map(|job| {
            let to = job.recipients.iter().map(|r| r.address.to_string());
            (job.next_hop.to_string(), to.collect())
        })
        .collect();
    jobs.sort();
    let list = |to: &[&str]| to.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        jobs,
        [
            ("mailbox:example.org".to_owned(), list(&["alice@example.org", "bob@example.org"])),
            ("smtp:elsewhere.example".to_owned(), list(&["carol@elsewhere.example"])),
        ]
    );
    let carol = stored.jobs.iter().flat_map(|job| &job.recipients);
    let carol = carol.clone().find(|r| r.address.to_string().starts_with("carol")).unwrap();
    assert_eq!(carol.orcpt.as_ref().unwrap().to_string(), "rfc822;team@example.org");
    assert!(!stored.text().contains("for <"), "several recipients are not told of each other");
    assert!(NextHop::mailbox(&"example.org".parse().unwrap()) == stored.jobs[0].next_hop);
}

#[tokio::test]
async fn bdat_by_chunks_and_an_open_last_line() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<bob@example.org>", "250").await;
    client.send(b"BDAT 10\r\nSubject: x").await;
    client.expect("250 2.0.0 10 octets").await;
    client.send(b"BDAT 8 LAST\r\n\r\n\r\nbody").await;
    client.expect("250 2.0.0 Ok: queued").await;
    let stored = server.only_message();
    assert_eq!(stored.head.header, "Subject: x\r\n\r\n");
    assert_eq!(stored.body, b"body\r\n");
}

#[tokio::test]
async fn a_pipelined_group_gets_its_replies_at_once() {
    let server = Server::start();
    let mut client = server.greeted().await;
    for _ in 0..3 {
        client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n").await;
        client.expect("250 2.1.0").await;
        client.expect("250 2.1.5").await;
        client.expect("354").await;
        client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n").await;
        client.expect("250 2.0.0").await;
    }
    assert_eq!(server.queue.messages().len(), 3);
}

#[tokio::test]
async fn both_families_and_helo() {
    let server = Server::start();
    let addresses: [SocketAddr; 2] = [server.address(Kind::Relay), server.ipv6_address()];
    for address in addresses {
        let mut client = Client::connect(address).await;
        client.expect("220 mx.example.org").await;
        client.says("HELO client.example", "250 mx.example.org").await;
        client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
        client.says("QUIT", "221").await;
    }
    for stored in server.queue.messages() {
        let Origin::Smtp(origin) = &stored.envelope.origin else { panic!() };
        assert_eq!(origin.protocol, "SMTP");
    }
}

/// What is no header field is body, and never mixes with the fields we add.
#[tokio::test]
async fn messages_without_header_fields() {
    let server = Server::start();
    let mut client = server.greeted().await;
    for content in ["", "\r\n", "just text\r\n", "\r\nbody\r\n"] {
        let reply = client.send_message("a@example.com", "bob@example.org", content).await;
        assert!(reply.starts_with("250"), "{reply}");
    }
    let ends = ["", "\r\n\r\n", "\r\n\r\njust text\r\n", "\r\n\r\nbody\r\n"];
    for (stored, end) in server.queue.messages().iter().zip(ends) {
        let text = stored.text();
        assert!(text.starts_with("Received:") && text.ends_with(end), "{text:?}");
    }
}

#[tokio::test]
async fn a_disconnect_before_the_dot_leaves_nothing() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.begin("a@example.com", "bob@example.org").await;
    client.send(b"Subject: x\r\n\r\nhalf").await;
    drop(client);
    server.until_metric("ingress_sessions_ended_total{reason=\"disconnected\"}", 1.0).await;
    assert_eq!(*server.queue.discarded.lock().unwrap(), 1);
    assert!(server.queue.messages().is_empty());
}

/// RFC 6531 §3.7.1: what we say of ourselves is ASCII.
#[tokio::test]
async fn our_own_name_is_said_in_a_labels() {
    let server = Server::start_with(|config| config.hostname = "mx.b\u{fc}cher.example".to_owned());
    let mut client = Client::connect(server.address(Kind::Relay)).await;
    client.expect("220 mx.xn--bcher-kva.example ").await;
}
