//! A stop: nobody new, 421 to the idle, open transactions finish within the grace.

use super::server::Server;

const MESSAGE: &str = "Subject: x\r\n\r\nbody\r\n";

#[tokio::test]
async fn idle_sessions_hear_421_and_transactions_finish() {
    let server = Server::start();
    let mut idle = server.greeted().await;
    let mut busy = server.greeted().await;
    busy.begin("a@example.com", "bob@example.org").await;
    server.stop.cancel();
    idle.expect("421 4.3.2").await;
    idle.expect_end().await;
    busy.send(format!("{MESSAGE}.\r\n").as_bytes()).await;
    busy.expect("250 2.0.0").await;
    busy.expect("421 4.3.2").await;
    busy.expect_end().await;
    server.tasks.wait().await;
    assert_eq!(server.queue.messages().len(), 1);
}

#[tokio::test]
async fn the_grace_ends() {
    let server = Server::start_with(|config| config.stop_grace_seconds = 0);
    let mut busy = server.greeted().await;
    busy.begin("a@example.com", "bob@example.org").await;
    busy.send(b"Subject: x\r\n\r\nhalf").await;
    server.stop.cancel();
    server.tasks.wait().await;
    busy.expect("421 4.3.2").await;
    busy.expect_end().await;
    assert!(server.queue.messages().is_empty());
}
