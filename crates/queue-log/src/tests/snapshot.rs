//! A queue that works while it is copied.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use queue::Queue;

use super::mail::{
    NOW, body, content, done, envelope, head, job, lease_all, read, send, small_segments,
};
use super::space::until;
use crate::{AtRest, Config, LogFile, LogQueue, Metrics, OpenError, Snapshot};

fn open(dir: &Path) -> LogQueue {
    LogQueue::open(dir, small_segments(), Metrics::default(), || NOW).unwrap()
}

fn copy(from: &Path, log: &[LogFile], to: &Path) {
    fs::create_dir_all(to.join("log")).unwrap();
    for LogFile { path, bytes } in log {
        let octets = fs::read(from.join(path)).unwrap();
        fs::write(to.join(path), &octets[..usize::try_from(*bytes).unwrap()]).unwrap();
    }
    for dir in Snapshot::WHOLE {
        fs::create_dir_all(to.join(dir)).unwrap();
        for entry in fs::read_dir(from.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(dir).join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// What a queue holds, by id.
async fn contents(queue: &LogQueue) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for lease in lease_all(queue).await {
        contents.insert(lease.job().id.message.to_string(), read(&*lease).await.unwrap());
    }
    contents
}

#[tokio::test]
async fn a_copy_is_the_queue_as_it_was() {
    let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let queue = open(dir.path());
    let mut expected = BTreeMap::new();
    for n in 0..60 {
        let body = body(n, if n % 7 == 0 { 40_000 } else { 9_000 });
        let (id, sent) = send(&queue, body.clone()).await;
        sent.unwrap();
        expected.insert(id.to_string(), content(&body));
    }
    // Its file is written, and nothing refers to it yet.
    let mut draft = queue.begin(envelope(), queue::Admission::Outside).await.unwrap();
    draft.write(body(100, 60_000)).await.unwrap();
    let snapshot = queue.snapshot().await.unwrap();
    assert!(!snapshot.is_in_the_way());
    draft.commit(head(), vec![job()]).await.unwrap();
    // All of it ends, and more comes, while it is copied.
    for mut lease in lease_all(&queue).await {
        lease.settle(&done()).await.unwrap();
    }
    let (later, sent) = send(&queue, body(101, 9_000)).await;
    sent.unwrap();
    queue.poke();
    copy(dir.path(), snapshot.log(), copied.path());
    drop(snapshot);
    assert_eq!(contents(&open(copied.path())).await, expected);
    assert_eq!(contents(&queue).await.into_keys().collect::<Vec<_>>(), [later.to_string()]);
}

#[tokio::test]
async fn nothing_is_deleted_before_the_end_of_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    for n in 0..40 {
        send(&queue, body(n, 15_000)).await.1.unwrap();
    }
    let snapshot = queue.snapshot().await.unwrap();
    let second = queue.snapshot();
    for mut lease in lease_all(&queue).await {
        lease.settle(&done()).await.unwrap();
    }
    let is_there = |file: &LogFile| dir.path().join(&file.path).exists();
    let log = snapshot.log().to_vec();
    assert!(log.len() > 3, "{log:?}");
    queue.poke();
    assert!(futures::FutureExt::now_or_never(second).is_none(), "one at a time");
    assert!(log.iter().all(is_there));
    drop(snapshot);
    until("the dead segments are deleted", async || {
        queue.poke();
        !log[..log.len() - 1].iter().any(is_there)
    })
    .await;
    // And one may be taken again.
    assert!(queue.snapshot().await.unwrap().log().len() < log.len());
}

#[tokio::test]
async fn a_queue_at_rest_stays_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    let (id, sent) = send(&queue, body(1, 20_000)).await;
    sent.unwrap();
    assert!(matches!(AtRest::open(dir.path()), Err(OpenError::Locked { .. })));
    queue.close().await;
    drop(queue);
    let rest = AtRest::open(dir.path()).unwrap();
    let opened = LogQueue::open(dir.path(), small_segments(), Metrics::default(), || NOW);
    assert!(matches!(opened, Err(OpenError::Locked { .. })));
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), rest.log(), copied.path());
    let contents = contents(&open(copied.path())).await;
    assert_eq!(contents.into_keys().collect::<Vec<_>>(), [id.to_string()]);
}

#[tokio::test]
async fn a_store_that_fills_up_wants_its_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { max_bytes: Some(1 << 20), ..small_segments() };
    let queue = LogQueue::open(dir.path(), config, Metrics::default(), || NOW).unwrap();
    let snapshot = queue.snapshot().await.unwrap();
    assert!(!snapshot.is_in_the_way());
    let mut sent = 0;
    while send(&queue, body(sent, 15_000)).await.1.is_ok() {
        sent += 1;
        assert!(sent < 100, "the store is never full");
    }
    assert!(snapshot.is_in_the_way());
    drop(snapshot);
    // What was full before is not made full by copying it.
    assert!(!queue.snapshot().await.unwrap().is_in_the_way());
}
