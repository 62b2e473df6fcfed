//! What the client hears when the store is full, sick or silent. Each refusal ends in delivery.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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

/// Whatever the store does and whenever clients leave: who heard 250 is stored, once.
#[tokio::test]
async fn a_250_means_stored() {
    let server = Server::start();
    let mut rng = StdRng::seed_from_u64(7);
    let mut heard = BTreeSet::new();
    for _ in 0..300 {
        let fault = |rng: &mut StdRng| {
            let faults = [
                Fault::Full,
                Fault::TenantQuota,
                Fault::Unavailable,
                Fault::Unknown,
                Fault::KeptUnknown,
            ];
            rng.random_bool(0.12).then(|| faults[rng.random_range(0..faults.len())])
        };
        for script in [&server.queue.begin, &server.queue.write, &server.queue.commit] {
            let mut script = script.lock().unwrap();
            script.clear();
            script.extend((0..3).filter_map(|_| fault(&mut rng)));
        }
        let mut client = server.greeted().await;
        client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n").await;
        client.expect("250").await;
        client.expect("250").await;
        if !client.reply().await.starts_with("354") {
            continue;
        }
        let content = format!("{MESSAGE}{}.\r\n", "more\r\n".repeat(rng.random_range(0..20_000)));
        let leaves = rng.random_bool(0.2);
        let end = if leaves { rng.random_range(0..content.len()) } else { content.len() };
        client.send(&content.as_bytes()[..end]).await;
        if leaves {
            continue;
        }
        let reply = client.reply().await;
        if let Some(id) = reply.strip_prefix("250 2.0.0 Ok: queued as ") {
            assert!(heard.insert(id.to_owned()), "{id} twice");
        } else {
            assert!(reply.starts_with("45"), "{reply}");
        }
    }
    let stored = server.queue.stored.lock().unwrap();
    let stored: Vec<String> = stored.iter().map(|(id, _)| id.to_string()).collect();
    let ids: BTreeSet<String> = stored.iter().cloned().collect();
    assert_eq!(ids.len(), stored.len(), "stored twice");
    assert!(heard.is_subset(&ids), "{:?} are lost", heard.difference(&ids));
    assert!(heard.len() > 50, "only {} were accepted", heard.len());
}
