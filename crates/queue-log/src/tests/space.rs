//! Room is freed, and content is copied at most once.

use std::time::{Duration, Instant};

use queue::{Filter, Queue};

use super::mail::{body, content, defer, done, lease_all, open, read, send, small_segments};
use crate::disk::{SimDisk, Syncs};
use crate::{Config, LogQueue};

pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what} in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn store_bytes(queue: &LogQueue) -> u64 {
    queue.stats().await.unwrap().store_bytes
}

#[tokio::test]
async fn what_is_done_is_freed() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let config = small_segments();
    let queue = open(&disk, &config);
    for round in 0..20 {
        for n in 0..20 {
            send(&queue, body(n, 10_000)).await.1.unwrap();
        }
        send(&queue, body(round, 50_000)).await.1.unwrap();
        for mut lease in lease_all(&queue).await {
            lease.settle(&done()).await.unwrap();
        }
    }
    let segments = u64::from(config.segment_bytes) * 3;
    until("dead segments and files are deleted", async || store_bytes(&queue).await <= segments)
        .await;
}

#[tokio::test]
async fn old_mail_moves_once() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let config = Config { segment_bytes: 128 << 10, ..small_segments() };
    let queue = open(&disk, &config);
    let (size, old) = (8_000, 10);
    for n in 0..old {
        send(&queue, body(n, size)).await.1.unwrap();
    }
    for mut lease in lease_all(&queue).await {
        lease.settle(&defer()).await.unwrap();
    }
    let (before, mut passed) = (disk.written_bytes(), 0);
    for n in 0..600 {
        send(&queue, body(n, size)).await.1.unwrap();
        for mut lease in lease_all(&queue).await {
            passed += 1;
            lease.settle(&done()).await.unwrap();
        }
    }
    assert!(passed >= 590, "{passed}");
    let sparse = u64::from(config.segment_bytes) * 8;
    until("old mail has moved", async || store_bytes(&queue).await <= sparse).await;
    let written = disk.written_bytes() - before;
    // Each that passed: its content and two small records. Each old one: its content once.
    let allowed = 600 * (size as u64 + 2 * 2048) + old as u64 * (size as u64 + 20 * 2048);
    assert!(written <= allowed, "{written} octets written, {allowed} allowed");
    queue.close().await;
    let queue = open(&disk.cut(), &config);
    let jobs = queue.list(Filter::default());
    assert_eq!(futures::StreamExt::count(jobs).await, old + 600 - passed);
    let shown = queue.stats().await.unwrap();
    assert_eq!(shown.deferred, old as u64, "their state has moved along");
}

#[tokio::test]
async fn moved_content_is_read_as_it_was() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let config = small_segments();
    let queue = open(&disk, &config);
    let (id, sent) = send(&queue, body(7, 9_000)).await;
    sent.unwrap();
    let (large, sent) = send(&queue, body(8, 90_000)).await;
    sent.unwrap();
    let held = lease_all(&queue).await;
    for n in 0..300 {
        send(&queue, body(n, 9_000)).await.1.unwrap();
        for mut lease in lease_all(&queue).await {
            lease.settle(&done()).await.unwrap();
        }
    }
    let sparse = u64::from(config.segment_bytes) * 8;
    until("old mail has moved", async || store_bytes(&queue).await <= sparse).await;
    for lease in &held {
        let n = if lease.job().id.message == id { (7, 9_000) } else { (8, 90_000) };
        assert!(read(&**lease).await.unwrap() == content(&body(n.0, n.1)));
    }
    assert!(held.iter().any(|lease| lease.job().id.message == large));
    for mut lease in held {
        lease.settle(&done()).await.unwrap();
    }
}
