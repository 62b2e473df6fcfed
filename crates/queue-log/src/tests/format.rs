//! A store that an older version wrote is read.

use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use queue::{Filter, Phase, Queue};

use super::mail::{NOW, body, content, defer, done, lease_all, read, send, small_segments};
use crate::{LogQueue, Metrics};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/segment-v1.seg")
}

fn open(dir: &Path) -> LogQueue {
    LogQueue::open(dir, small_segments(), Metrics::default(), || NOW).unwrap()
}

#[tokio::test]
async fn version_1_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    std::fs::copy(fixture(), dir.path().join("log/0000000001.seg")).unwrap();
    let queue = open(dir.path());
    let jobs: Vec<_> = queue.list(Filter::default()).try_collect().await.unwrap();
    let phases: Vec<Phase> = jobs.iter().map(|job| job.phase).collect();
    assert_eq!(phases.len(), 2, "three were sent and one was delivered");
    assert!(phases.contains(&Phase::Ready) && phases.contains(&Phase::Deferred), "{phases:?}");
    for lease in lease_all(&queue).await {
        assert_eq!(read(&*lease).await.unwrap(), content(&body(2, 64)));
    }
}

/// Writes the fixture of this version; done once for each.
#[tokio::test]
#[ignore = "writes into the source tree"]
async fn write_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    for (n, settlement) in [(0, Some(done())), (1, Some(defer())), (2, None)] {
        send(&queue, body(n, 64)).await.1.unwrap();
        if let Some(settlement) = settlement {
            lease_all(&queue).await[0].settle(&settlement).await.unwrap();
        }
    }
    drop(queue);
    let segment = std::fs::read(dir.path().join("log/0000000001.seg")).unwrap();
    let end = segment.iter().rposition(|&octet| octet != 0).unwrap() + 1;
    std::fs::write(fixture(), &segment[..end.next_multiple_of(8)]).unwrap();
}
