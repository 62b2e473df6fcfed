//! Every limit has a reply and a counter, and stops nobody else.

use super::client::Client;
use super::server::Server;
use ingress::Kind;

const SMALL: &str = "Subject: x\r\n\r\nbody\r\n";

#[tokio::test]
async fn connections_in_total() {
    let server = Server::start_with(|config| config.limits.connections_max = 2);
    let first = server.connect().await;
    let _second = server.connect().await;
    let mut third = Client::connect(server.address(Kind::Relay)).await;
    third.expect("421 4.7.0").await;
    third.expect_end().await;
    assert_eq!(server.metric("ingress_connections_refused_total{reason=\"total\"}"), 1.0);
    drop(first);
    server.until_metric("ingress_connections_open", 1.0).await;
    server.connect().await;
}

#[tokio::test]
async fn connections_of_a_client() {
    let server = Server::start_with(|config| config.limits.connections_per_client_max = 1);
    let _first = server.connect().await;
    let mut second = Client::connect(server.address(Kind::Relay)).await;
    second.expect("421 4.7.0").await;
    second.expect_end().await;
    assert_eq!(server.metric("ingress_connections_refused_total{reason=\"client\"}"), 1.0);
    // Another address is another client.
    Client::connect(server.ipv6_address()).await.expect("220").await;
}

#[tokio::test]
async fn errors() {
    let server = Server::start_with(|config| config.limits.errors_max = 2);
    let mut client = server.greeted().await;
    client.says("FROB", "500").await;
    client.says("FROB", "500").await;
    client.says("FROB", "421 4.7.0").await;
    client.expect_end().await;
    assert_eq!(server.metric("ingress_client_faults_total{fault=\"too_many_errors\"}"), 1.0);
}

#[tokio::test]
async fn commands() {
    let server = Server::start_with(|config| config.limits.commands_max = 10);
    let mut client = server.greeted().await;
    for _ in 0..9 {
        client.says("NOOP", "250").await;
    }
    client.says("NOOP", "421 4.7.0").await;
    assert_eq!(server.metric("ingress_client_faults_total{fault=\"too_many_commands\"}"), 1.0);
}

#[tokio::test]
async fn recipients() {
    let server = Server::start_with(|config| config.limits.recipients_max = 100);
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    for i in 0..100 {
        client.says(&format!("RCPT TO:<bob+{i}@example.org>"), "250").await;
    }
    client.says("RCPT TO:<bob@example.org>", "452 4.5.3").await;
    assert_eq!(server.metric("ingress_client_faults_total{fault=\"too_many_recipients\"}"), 1.0);
}

#[tokio::test]
async fn size_declared_and_real() {
    let server = Server::start_with(|config| config.limits.message_size_bytes = 64 * 1024);
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com> SIZE=65537", "552 5.3.4").await;
    let content = format!("S: x\r\n\r\n{}", "line of text\r\n".repeat(6000));
    let reply = client.send_message("a@example.com", "bob@example.org", &content).await;
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    let reply = client.send_message("a@example.com", "bob@example.org", SMALL).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(server.queue.messages().len(), 1);
}

#[tokio::test]
async fn header_block_and_hops() {
    let server = Server::start();
    let mut client = server.greeted().await;
    let fields = "X-Field: some text that fills it\r\n".repeat(9000);
    let large = format!("{fields}\r\nbody\r\n");
    let reply = client.send_message("a@example.com", "bob@example.org", &large).await;
    assert!(reply.starts_with("554 5.6.0"), "{reply}");
    let hop = "Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n";
    let looping = format!("{}\r\nbody\r\n", hop.repeat(100));
    let reply = client.send_message("a@example.com", "bob@example.org", &looping).await;
    assert!(reply.starts_with("554 5.4.6"), "{reply}");
    let travelled = format!("{}\r\nbody\r\n", hop.repeat(99));
    let reply = client.send_message("a@example.com", "bob@example.org", &travelled).await;
    assert!(reply.starts_with("250"), "{reply}");
}

#[tokio::test]
async fn command_and_text_lines() {
    let server = Server::start_with(|config| config.limits.text_line_bytes = 2000);
    let mut client = server.greeted().await;
    client.says(&format!("NOOP {}", "x".repeat(3000)), "500 5.5.2").await;
    let line = format!("S: x\r\n\r\n{}\r\n", "x".repeat(2001));
    let reply = client.send_message("a@example.com", "bob@example.org", &line).await;
    assert!(reply.starts_with("554 5.6.0"), "{reply}");
    let line = format!("S: x\r\n\r\n{}\r\n", "x".repeat(2000));
    let reply = client.send_message("a@example.com", "bob@example.org", &line).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(server.only_message().body.len(), 2002);
}

/// Time in every state; a dripping command counts as silence.
#[tokio::test]
async fn slow_clients_are_sent_away_and_hold_back_nobody() {
    let server = Server::start_with(|config| {
        config.limits.command_timeout_seconds = 1;
        config.limits.content_timeout_seconds = 1;
    });
    let mut silent = server.connect().await;
    let mut dripping = server.greeted().await;
    let mut stuck = server.greeted().await;
    stuck.begin("a@example.com", "bob@example.org").await;
    stuck.send(b"Subject: x\r\n").await;
    let mut quick = server.greeted().await;
    let reply = quick.send_message("a@example.com", "bob@example.org", SMALL).await;
    assert!(reply.starts_with("250"), "{reply}");
    let drip = async {
        let start = std::time::Instant::now();
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(200));
        for octet in [b"N", b"O", b"O", b"P"] {
            pace.tick().await;
            dripping.send(octet).await;
        }
        dripping.expect("421 4.4.2").await;
        let taken = start.elapsed().as_secs_f64();
        assert!(taken < 1.4, "each octet prolonged it: {taken}");
    };
    tokio::join!(
        async { silent.expect("421 4.4.2").await },
        async { stuck.expect("421 4.4.2").await },
        drip,
    );
    assert_eq!(server.queue.messages().len(), 1);
}

#[tokio::test]
async fn content_that_trickles_for_ever() {
    let server = Server::start_with(|config| config.limits.content_total_seconds = 1);
    let mut client = server.greeted().await;
    client.begin("a@example.com", "bob@example.org").await;
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(200));
    for _ in 0..6 {
        pace.tick().await;
        client.send(b"X-Slow: yes\r\n").await;
    }
    client.expect("421 4.4.2").await;
}

/// A pause between two BDAT belongs to the time that a message may take.
#[tokio::test]
async fn chunks_that_never_end() {
    let server = Server::start_with(|config| config.limits.content_total_seconds = 1);
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
    client.says("RCPT TO:<bob@example.org>", "250").await;
    client.says("BDAT 16\r\nSubject: x\r\n\r\n", "250").await;
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(300));
    for _ in 0..3 {
        pace.tick().await;
        client.says("NOOP", "250").await;
    }
    client.expect("421 4.4.2").await;
}

/// What a message declares to have holds nobody back; what has come does.
#[tokio::test]
async fn memory_for_content() {
    let server = Server::start_with(|config| {
        config.limits.memory_budget_bytes = 1280 * 1024;
        config.limits.memory_wait_seconds = 0;
        config.limits.connections_per_client_max = 1000;
    });
    let silent = async || {
        let mut client = server.greeted().await;
        client.says("MAIL FROM:<a@example.com> SIZE=2000000", "250").await;
        client.says("RCPT TO:<bob@example.org>", "250").await;
        client
    };
    let mut waiting = Vec::new();
    for _ in 0..320 {
        let mut client = silent().await;
        client.says("DATA", "354").await;
        waiting.push(client);
    }
    let mut late = silent().await;
    late.says("DATA", "452 4.3.1").await;
    let mut first = waiting.swap_remove(0);
    first.send(format!("{SMALL}.\r\n").as_bytes()).await;
    first.expect("250").await;
    let reply = late.send_message("a@example.com", "bob@example.org", SMALL).await;
    assert!(reply.starts_with("250"), "{reply}");
}

/// Clients that send much and end nothing fill their own share, and nobody else's.
#[tokio::test]
async fn memory_of_one_client() {
    const MESSAGE: usize = 1280 * 1024;
    let server = Server::start_with(|config| {
        config.limits.memory_budget_bytes = 8 * MESSAGE;
        config.limits.memory_per_client_bytes = 2 * MESSAGE;
        config.limits.memory_wait_seconds = 0;
    });
    let content = format!("S: x\r\n\r\n{}", "line of text\r\n".repeat(MESSAGE / 14));
    let from = async |last: u8| {
        let address = server.address(Kind::Relay);
        let mut client = Client::connect_from([127, 0, 0, last].into(), address).await;
        client.expect("220").await;
        client.says("EHLO client.example", "250").await;
        client
    };
    let mut stalled = Vec::new();
    for last in [2, 2, 3, 3, 4, 4] {
        let mut client = from(last).await;
        client.begin("a@example.com", "bob@example.org").await;
        client.send(content.as_bytes()).await;
        stalled.push(client);
    }
    server.until_metric("ingress_content_memory_bytes", (6 * MESSAGE) as f64).await;
    for last in [2, 3, 4] {
        let mut greedy = from(last).await;
        greedy.says("MAIL FROM:<a@example.com>", "250").await;
        greedy.says("RCPT TO:<bob@example.org>", "250").await;
        greedy.says("DATA", "452 4.3.1").await;
    }
    let reply = from(9).await.send_message("a@example.com", "bob@example.org", &content).await;
    assert!(reply.starts_with("250"), "{reply}");
    let mut first = stalled.swap_remove(0);
    first.send(b".\r\n").await;
    first.expect("250").await;
    let reply = from(2).await.send_message("a@example.com", "bob@example.org", SMALL).await;
    assert!(reply.starts_with("250"), "{reply}");
}
