//! Damaged places are passed over, everything else is read.

use queue::{ContentError, Queue};

use super::mail::{body, content, done, lease_all, open, read, send, small_segments};
use crate::content::body_path;
use crate::disk::{self, Disk, SimDisk, Syncs};
use crate::index::Location;
use crate::{LogQueue, segment};

fn place(queue: &LogQueue, message: mail_types::QueueId) -> Location {
    let views = queue.shared().index().schedule.of_message(message);
    views[0].payload.message
}

#[tokio::test]
async fn a_flipped_bit_anywhere_costs_one_record() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let queue = open(&disk, &small_segments());
    let mut ids = Vec::new();
    for n in 0..5 {
        let (id, sent) = send(&queue, body(n, 200)).await;
        sent.unwrap();
        ids.push(id);
    }
    let at = place(&queue, ids[2]);
    let path = segment::path(at.segment.get());
    let end = place(&queue, ids[3]).offset;
    drop(queue);
    for offset in (at.offset..end).step_by(7) {
        let disk = disk.copy();
        disk.flip(&path, offset.into());
        let queue = open(&disk, &small_segments());
        let leases = lease_all(&queue).await;
        let mut whole = 0;
        for lease in &leases {
            let n = ids.iter().position(|id| *id == lease.job().id.message).unwrap();
            match read(&**lease).await {
                Ok(octets) => whole += usize::from(octets == content(&body(n, 200))),
                Err(ContentError::Damaged(_)) => assert_eq!(n, 2),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(whole >= 4, "a flip at {offset} left {whole} messages");
        let aside = disk.list(disk::QUARANTINE).unwrap();
        assert!(whole == 5 || !aside.is_empty(), "a flip at {offset} was not set aside");
    }
}

#[tokio::test]
async fn a_large_body_that_is_gone_is_told() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let queue = open(&disk, &small_segments());
    let (id, sent) = send(&queue, body(1, 100_000)).await;
    sent.unwrap();
    disk.truncate(&body_path(id));
    let lease = lease_all(&queue).await.pop().unwrap();
    let read = read(&*lease).await;
    assert!(matches!(read, Err(ContentError::Damaged(_))), "{read:?}");
}

#[tokio::test]
async fn a_damaged_checkpoint_costs_time_only() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let queue = open(&disk, &small_segments());
    for n in 0..20 {
        send(&queue, body(n, 5000)).await.1.unwrap();
    }
    for mut lease in lease_all(&queue).await.into_iter().take(7) {
        lease.settle(&done()).await.unwrap();
    }
    queue.close().await;
    let saved = open(&disk, &small_segments());
    assert_eq!(saved.stats().await.unwrap().messages, 13);
    saved.close().await;
    disk.flip("checkpoint", 100);
    let queue = open(&disk, &small_segments());
    assert_eq!(queue.stats().await.unwrap().messages, 13);
    assert_eq!(lease_all(&queue).await.len(), 13);
}
