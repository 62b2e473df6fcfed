//! Room is freed, and content is copied at most once.

use std::time::{Duration, Instant};

use mail_types::{Mailbox, Recipient};
use queue::{
    AcceptError, Admission, Filter, FollowUp, FollowUpKind, HopKind, NewJob, Queue, Settlement,
};

use super::mail::{
    body, content, defer, done, envelope, head, job, lease_all, open, read, send, small_segments,
};
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

/// Between two looks at the disk a burst stops before the reserve; what drains goes on into it.
#[tokio::test]
async fn a_burst_cannot_eat_into_the_reserve() {
    for size in [3_000, 9_000, 40_000] {
        let disk = SimDisk::new(1, Syncs::Honest);
        let config = Config { min_free_bytes: 600 << 10, ..small_segments() };
        disk.hold_at_most(3 << 20);
        let queue = open(&disk, &config);
        disk.hide_free();
        let (mut accepted, mut refused) = (0, 0);
        let together = 500_000 / size;
        for round in 0..10 {
            let sends = (0..together).map(|n| send(&queue, body(round * together + n, size)));
            for (_, sent) in futures::future::join_all(sends).await {
                match sent {
                    Ok(()) => accepted += 1,
                    Err(AcceptError::Full) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(disk.free() >= config.min_free_bytes, "{} octets are left", disk.free());
        }
        assert!(refused > 0 && accepted * size > 1 << 20, "{accepted} accepted, {refused} refused");
        let mut draft = queue.begin(envelope(), Admission::Internal).await.unwrap();
        draft.write(body(1, size)).await.unwrap();
        draft.commit(head(), vec![job()]).await.unwrap();
        let lease = queue.lease(HopKind::Smtp, 1, usize::MAX).await.unwrap().pop();
        lease.unwrap().settle(&bounce(size)).await.unwrap();
        assert!(matches!(send(&queue, body(1, size)).await.1, Err(AcceptError::Full)));
    }
}

/// What a message takes of the disk is its record, however small its content.
#[tokio::test]
async fn recipients_take_room_too() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let config = Config { min_free_bytes: 600 << 10, ..small_segments() };
    // The reserve and two segments are kept, besides the open segment and a spare one.
    disk.hold_at_most(config.min_free_bytes + 3 * u64::from(config.segment_bytes) + 20_000);
    let queue = open(&disk, &config);
    let name = |n| Mailbox::parse(&format!("recipient-number-{n}@example.net")).unwrap();
    let many = (0..1_000).map(|n| Recipient::new(name(n))).collect();
    let many = NewJob { recipients: many, ..job() };
    let mut draft = queue.begin(envelope(), Admission::Outside).await.unwrap();
    draft.write(body(1, 100)).await.unwrap();
    let refused = draft.commit(head(), vec![many]).await;
    assert!(matches!(refused, Err(AcceptError::Full)), "{refused:?}");
    send(&queue, body(1, 100)).await.1.unwrap();
}

fn bounce(size: usize) -> Settlement {
    let (kind, envelope, head) = (FollowUpKind::FailedDsn, envelope(), head());
    let dsn = FollowUp { kind, envelope, head, body: body(1, size), jobs: vec![job()] };
    Settlement { follow_ups: vec![dsn], ..done() }
}
