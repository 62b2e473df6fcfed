//! Opening, closing, and what is swept up then.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use queue::{Admission, Head, HopKind, Queue, QueueError};

use super::mail::{
    NOW, body, content, defer, done, envelope, head, job, job_for, lease_all, open, read, send,
    small_segments,
};
use super::space::until;
use crate::checkpoint::{self, Position};
use crate::disk::{Disk, SimDisk, Syncs};
use crate::segment::DATA_START;
use crate::{Config, LogQueue, Metrics, OpenError};

fn try_open(dir: &Path, config: Config) -> Result<LogQueue, OpenError> {
    LogQueue::open(dir, config, Metrics::default(), || NOW)
}

#[test]
fn a_second_process_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let queue = try_open(dir.path(), small_segments()).unwrap();
    let second = try_open(dir.path(), small_segments());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(queue);
    try_open(dir.path(), small_segments()).unwrap();
}

#[test]
fn a_place_that_is_no_directory_is_told() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = try_open(file.path(), small_segments()).err().unwrap();
    let path = file.path().to_string_lossy().into_owned();
    assert!(error.to_string().contains(&path), "{error}");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for config in [
        Config { segment_bytes: 1, ..Config::default() },
        Config { inline_body_bytes: 64 << 20, ..Config::default() },
        Config { lease_seconds: 0, ..Config::default() },
    ] {
        assert!(config.validate().is_err(), "{config:?}");
    }
    assert_eq!(Config::default().validate(), Ok(()));
    let read: Config = serde_json::from_str(r#"{"maxBytes":5}"#).unwrap();
    assert_eq!(read.max_bytes, Some(5));
    assert!(serde_json::from_str::<Config>(r#"{"maxByte":5}"#).is_err());
}

#[tokio::test]
async fn a_closed_queue_says_so_and_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let queue = try_open(dir.path(), small_segments()).unwrap();
    send(&queue, body(1, 100)).await.1.unwrap();
    let (leases, ()) = tokio::join!(
        async {
            drop(queue.lease(HopKind::Smtp, 1, 1).await);
            queue.lease(HopKind::Mailbox, 1, 1).await
        },
        queue.close()
    );
    assert!(matches!(leases.map(|leases| leases.len()), Err(QueueError::Closed)));
    assert!(send(&queue, body(1, 100)).await.1.is_err());
    drop(queue);
    let queue = try_open(dir.path(), small_segments()).unwrap();
    assert_eq!(lease_all(&queue).await.len(), 1);
}

#[tokio::test]
async fn old_orphans_are_deleted_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let queue = try_open(dir.path(), small_segments()).unwrap();
    let (kept, sent) = send(&queue, body(1, 50_000)).await;
    sent.unwrap();
    drop(queue);
    let path = |id: &str| dir.path().join(format!("content/{id}.body"));
    let orphan = path("01JD5ZQ9W3T8M1V5K7N2B4C6XR");
    std::fs::write(&orphan, "nobody's").unwrap();
    let long_after = move || NOW + Duration::from_secs(100 * 365 * 86_400);
    let young = LogQueue::open(dir.path(), small_segments(), Metrics::default(), || {
        mail_types::Timestamp::from_unix_ms(0)
    });
    young.unwrap().close().await;
    assert!(orphan.exists(), "it may be of a message that is being received");
    let queue = LogQueue::open(dir.path(), small_segments(), Metrics::default(), long_after);
    let deadline = Instant::now() + Duration::from_secs(10);
    while orphan.exists() {
        assert!(Instant::now() < deadline, "the orphan is deleted");
        tokio::task::yield_now().await;
    }
    assert!(path(&kept.to_string()).exists());
    drop(queue);
}

/// However long it takes to send, a message that is being received keeps its file.
#[tokio::test]
async fn a_draft_is_no_orphan() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(NOW.unix_ms()));
    let reader = Arc::clone(&clock);
    let queue = LogQueue::open(dir.path(), small_segments(), Metrics::default(), move || {
        mail_types::Timestamp::from_unix_ms(reader.load(Ordering::SeqCst))
    })
    .unwrap();
    let sent = body(1, 2 << 20);
    let mut draft = queue.begin(envelope(), Admission::Outside).await.unwrap();
    draft.write(sent.clone()).await.unwrap();
    let path = |id: &str| dir.path().join(format!("content/{id}.body"));
    assert!(path(&draft.id().to_string()).exists(), "the body has begun to be written");
    let orphan = path("01JD5ZQ9W3T8M1V5K7N2B4C6XR");
    std::fs::write(&orphan, "nobody's").unwrap();
    clock.fetch_add(100 * 365 * 86_400_000, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(10);
    while orphan.exists() {
        assert!(Instant::now() < deadline, "the orphan is deleted");
        tokio::task::yield_now().await;
    }
    assert!(path(&draft.id().to_string()).exists(), "the draft's file is not");
    draft.commit(head(), vec![job()]).await.unwrap();
    drop((draft, queue));
    let queue = try_open(dir.path(), small_segments()).unwrap();
    let leases = lease_all(&queue).await;
    assert_eq!(read(&*leases[0]).await.unwrap(), content(&sent));
}

/// What cannot be read holds up nothing else.
#[tokio::test]
async fn a_missing_segment_stops_no_other_mail() {
    let dir = tempfile::tempdir().unwrap();
    let queue = try_open(dir.path(), small_segments()).unwrap();
    for n in 0..20 {
        send(&queue, body(n, 15_000)).await.1.unwrap();
    }
    drop(queue);
    let queue = try_open(dir.path(), small_segments()).unwrap();
    let mut segments: Vec<_> =
        std::fs::read_dir(dir.path().join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    std::fs::remove_file(&segments[0]).unwrap();
    let leases = lease_all(&queue).await;
    let stats = queue.stats().await.unwrap();
    assert!(stats.quarantined > 0, "{stats:?}");
    assert_eq!(leases.len() as u64 + stats.quarantined, 20, "{stats:?}");
    assert!(!leases.is_empty());
}

/// A segment is made for it; the one that was ready before is too small and has a lower number.
#[tokio::test]
async fn what_comes_after_a_record_larger_than_a_segment_is_read_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let queue = try_open(dir.path(), small_segments()).unwrap();
    let mut draft = queue.begin(envelope(), Admission::Outside).await.unwrap();
    let header = Bytes::from(vec![b'x'; 200 << 10]);
    draft.commit(Head { header, ..head() }, vec![job()]).await.unwrap();
    for mut lease in lease_all(&queue).await {
        lease.settle(&done()).await.unwrap();
    }
    drop((draft, queue));
    let queue = try_open(dir.path(), small_segments()).unwrap();
    assert_eq!(queue.stats().await.unwrap().messages, 0, "it was done with");
}

/// Saves the index as of now, to be read on from the beginning of a segment.
fn save_index(queue: &LogQueue, segments_on: u32) {
    let shared = queue.shared();
    let segment = shared.current.load(Ordering::Acquire) + segments_on;
    checkpoint::save(shared, Position { segment, offset: DATA_START }).unwrap();
}

/// The index was saved before a job ended; the record of the end went with its segment, for the
/// message had moved with the job that is left.
#[tokio::test]
async fn a_job_that_has_ended_stays_ended_when_its_message_has_moved() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let config = Config { checkpoint_segments: u32::MAX, ..small_segments() };
    let queue = open(&disk, &config);
    let mut draft = queue.begin(envelope(), Admission::Outside).await.unwrap();
    draft.write(body(1, 8_000)).await.unwrap();
    draft.commit(head(), vec![job(), job_for("user@other.example")]).await.unwrap();
    let id = draft.id();
    save_index(&queue, 0);
    for mut lease in lease_all(&queue).await {
        let outcome = if lease.job().id.index == 0 { defer() } else { done() };
        lease.settle(&outcome).await.unwrap();
    }
    for n in 0..300 {
        send(&queue, body(n, 9_000)).await.1.unwrap();
        for mut lease in lease_all(&queue).await {
            lease.settle(&done()).await.unwrap();
        }
    }
    let sparse = u64::from(config.segment_bytes) * 8;
    let is_sparse = async || queue.stats().await.unwrap().store_bytes <= sparse;
    until("old mail has moved", is_sparse).await;
    let queue = open(&disk.cut(), &config);
    let left = queue.shared().index().schedule.of_message(id);
    let left: Vec<u16> = left.iter().map(|view| view.id.index).collect();
    assert_eq!(left, [0]);
}

/// The index was saved at a segment that a power cut took: it had no record yet.
#[tokio::test]
async fn the_segment_before_a_lost_one_keeps_its_records() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let queue = open(&disk, &small_segments());
    for n in 0..5 {
        send(&queue, body(n, 5000)).await.1.unwrap();
    }
    save_index(&queue, 1);
    let disk = disk.cut();
    let queue = open(&disk, &small_segments());
    send(&queue, body(5, 5000)).await.1.unwrap();
    let disk = disk.cut();
    disk.remove("checkpoint").unwrap();
    let queue = open(&disk, &small_segments());
    assert_eq!(queue.stats().await.unwrap().messages, 6);
}
