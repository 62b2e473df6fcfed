//! What the client hears when the store is full, sick or silent. Each refusal ends in delivery.

use super::memory_queue::Fault;
use super::server::Server;

const MESSAGE: &str = "Subject: x\r\n\r\nbody\r\n";

#[tokio::test]
async fn refused_before_the_content() {
    for (fault, want) in [
        (Fault::Full, "452 4.3.1"),
        (Fault::TenantQuota, "452 4.2.2"),
        (Fault::Unavailable, "451 4.3.0"),
    ] {
        let server = Server::start();
        server.queue.begin.lock().unwrap().push_back(fault);
        let mut client = server.greeted().await;
        client.says("MAIL FROM:<a@example.com>", "250").await;
        client.says("RCPT TO:<bob@example.org>", "250").await;
        client.says("DATA", want).await;
        let reply = client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
        assert!(reply.starts_with("250"), "after {fault:?}: {reply}");
    }
}

#[tokio::test]
async fn refused_at_the_end() {
    for (fault, want) in [
        (Fault::Full, "452 4.3.1"),
        (Fault::TenantQuota, "452 4.2.2"),
        (Fault::Unavailable, "451 4.3.0"),
    ] {
        let server = Server::start();
        server.queue.commit.lock().unwrap().push_back(fault);
        let mut client = server.greeted().await;
        let reply = client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
        assert!(reply.starts_with(want), "{fault:?}: {reply}");
        assert!(server.queue.messages().is_empty());
        let reply = client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
        assert!(reply.starts_with("250"), "after {fault:?}: {reply}");
    }
}

#[tokio::test]
async fn refused_in_the_middle() {
    let server = Server::start();
    server.queue.write.lock().unwrap().push_back(Fault::Full);
    let mut client = server.greeted().await;
    let content = format!("{MESSAGE}{}", "more\r\n".repeat(50_000));
    let reply = client.send_message("a@example.com", "bob@example.org", &content).await;
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    let reply = client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(server.queue.messages().len(), 1);
}

/// An unknown outcome is resolved by the same commit again: stored once, answered 250 once.
#[tokio::test]
async fn unknown_outcomes() {
    for faults in [vec![Fault::Unknown], vec![Fault::KeptUnknown, Fault::Unknown]] {
        let server = Server::start();
        server.queue.commit.lock().unwrap().extend(faults);
        let mut client = server.greeted().await;
        let reply = client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
        assert!(reply.starts_with("250"), "{reply}");
        assert_eq!(server.queue.messages().len(), 1);
    }
    let server = Server::start();
    server.queue.commit.lock().unwrap().extend([Fault::Unknown; 3]);
    let mut client = server.greeted().await;
    let reply = client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
}
