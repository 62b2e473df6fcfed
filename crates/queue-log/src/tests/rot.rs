//! Records that are damaged while the queue is open: they hold up nothing, and no octet of them is
//! thrown away.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use mail_types::QueueId;
use queue::{ActResult, Action, ContentError, Filter, HopKind, JobSummary, Phase, Queue};

use super::mail::{NOW, body, content, defer, done, lease_all, read, send, small_segments};
use super::space::until;
use crate::content::body_path;
use crate::disk::{self, Disk, SimDisk, Syncs};
use crate::index::{Location, Places};
use crate::record::HEADER_BYTES;
use crate::{LogQueue, Metrics, segment};

/// Mail in the first segment that stays.
const OLD: usize = 6;
/// Which of it is damaged.
const VICTIM: usize = 3;
/// Mail after it that is delivered.
const PASSING: usize = 90;

fn open(disk: &SimDisk) -> (LogQueue, Metrics) {
    let (disk, metrics) = (Arc::new(disk.clone()), Metrics::default());
    let queue = LogQueue::on(disk, small_segments(), metrics.clone(), Box::new(|| NOW));
    (queue.unwrap(), metrics)
}

/// A store with mail that was deferred and mail that is due. None of it is in memory when it is
/// opened again, and no segment is read through.
struct Store {
    disk: SimDisk,
    old: Vec<QueueId>,
    victim: Places,
    victim_bytes: usize,
}

impl Store {
    async fn new(victim_bytes: usize) -> Self {
        let disk = SimDisk::new(1, Syncs::Honest);
        let (queue, _) = open(&disk);
        let mut old = Vec::new();
        for n in 0..OLD {
            let size = if n == VICTIM { victim_bytes } else { 5000 };
            let (id, sent) = send(&queue, body(n, size)).await;
            sent.unwrap();
            old.push(id);
        }
        for mut lease in lease_all(&queue).await {
            lease.settle(&defer()).await.unwrap();
        }
        for n in 0..PASSING {
            send(&queue, body(n, 8000)).await.1.unwrap();
        }
        let view = queue.shared().index().schedule.of_message(old[VICTIM]).pop().unwrap();
        queue.close().await;
        Self { disk, old, victim: view.payload, victim_bytes }
    }

    fn id(&self) -> QueueId {
        self.old[VICTIM]
    }

    fn flip(&self, at: Location, offset: u32) {
        self.disk.flip(&segment::path(at.segment.get()), u64::from(at.offset + offset));
    }

    fn flip_message(&self) {
        let meta = self.victim.message.meta_bytes;
        self.flip(self.victim.message, HEADER_BYTES as u32 + meta / 2);
    }

    /// The octets of a record as they are on the disk.
    fn octets(&self, at: Location) -> Vec<u8> {
        let file = self.disk.open(&segment::path(at.segment.get())).unwrap();
        let mut octets = vec![0; at.bytes().try_into().unwrap()];
        file.read_at(at.offset.into(), &mut octets).unwrap();
        octets
    }

    fn body(&self, n: usize) -> bytes::Bytes {
        body(n, if n == VICTIM { self.victim_bytes } else { 5000 })
    }

    /// Checks that mail is there and as it was sent.
    async fn assert_whole(&self, queue: &LogQueue, which: impl Fn(usize) -> bool) {
        let acted = queue.act(Filter::default(), Action::RetryNow);
        acted.for_each(|_| async {}).await;
        let leases = lease_all(queue).await;
        for n in (0..OLD).filter(|&n| which(n)) {
            let lease = leases.iter().find(|lease| lease.job().id.message == self.old[n]);
            let lease = lease.unwrap_or_else(|| panic!("message {n} is lost"));
            assert!(read(&**lease).await.unwrap() == content(&self.body(n)), "message {n}");
        }
    }
}

/// What was set aside of a message.
fn kept(disk: &SimDisk, id: QueueId) -> Vec<Vec<u8>> {
    let files = disk.list(disk::QUARANTINE).unwrap().into_iter();
    let files = files.filter(|file| file.name.starts_with(&id.to_string()));
    let files = files.filter(|file| !file.name.ends_with(".tmp"));
    let path = |name| format!("{}/{name}", disk::QUARANTINE);
    files.map(|file| disk::read_all(disk, &path(file.name)).unwrap()).collect()
}

/// Delivers what is due: the log becomes sparse.
async fn deliver(queue: &LogQueue) {
    let leases = lease_all(queue).await;
    let settled = leases.into_iter().map(async |mut lease| lease.settle(&done()).await);
    futures::future::join_all(settled).await;
}

fn has_segment(disk: &SimDisk, at: Location) -> bool {
    disk.open(&segment::path(at.segment.get())).is_ok()
}

async fn freed(queue: &LogQueue, disk: &SimDisk, at: Location) {
    until("the old segment is freed", async || {
        queue.poke();
        !has_segment(disk, at)
    })
    .await;
}

async fn list(queue: &LogQueue) -> Vec<JobSummary> {
    queue.list(Filter::default()).try_collect().await.unwrap()
}

/// Makes room in a store, then opens what a power cut leaves of it: nothing is damaged any more.
async fn make_room(store: &Store, kept_octets: &[Vec<u8>]) -> LogQueue {
    let (queue, metrics) = open(&store.disk);
    deliver(&queue).await;
    freed(&queue, &store.disk, store.victim.message).await;
    assert_eq!(kept(&store.disk, store.id()), kept_octets);
    let records = kept_octets.iter().filter(|octets| octets.len() != store.victim_bytes);
    assert_eq!(metrics.quarantined.get(), records.count() as u64);
    let after = store.disk.cut();
    drop(queue);
    after.remove("checkpoint").unwrap();
    let (queue, metrics) = open(&after);
    assert_eq!(metrics.quarantined.get(), 0, "nothing is damaged any more");
    assert_eq!(kept(&after, store.id()), kept_octets);
    queue
}

#[tokio::test]
async fn a_damaged_message_leaves_the_queue_and_its_segment_is_freed() {
    for offset in [0, HEADER_BYTES as u32 + 40] {
        let store = Store::new(5000).await;
        store.flip(store.victim.message, offset);
        let queue = make_room(&store, &[store.octets(store.victim.message)]).await;
        assert_eq!(list(&queue).await.len(), OLD - 1);
        store.assert_whole(&queue, |n| n != VICTIM).await;
    }
}

#[tokio::test]
async fn the_files_of_a_damaged_message_are_kept_too() {
    let store = Store::new(50_000).await;
    let path = body_path(store.id());
    store.flip_message();
    let record = store.octets(store.victim.message);
    let queue = make_room(&store, &[record, body(VICTIM, 50_000).to_vec()]).await;
    assert!(store.disk.open(&path).is_err());
    store.assert_whole(&queue, |n| n != VICTIM).await;
}

#[tokio::test]
async fn a_damaged_state_leaves_the_message_to_an_operator() {
    let store = Store::new(5000).await;
    let state = store.victim.state.unwrap();
    store.flip(state, HEADER_BYTES as u32 + 30);
    let queue = make_room(&store, &[store.octets(state)]).await;
    let phases = list(&queue).await;
    let phase = phases.iter().find(|job| job.id.message == store.id()).unwrap().phase;
    assert_eq!(phase, Phase::Quarantined);
    let shown = queue.show(store.id()).await.unwrap().pop().unwrap();
    assert!(shown.quarantine_reason.unwrap().contains("damaged"));
    let acted: Vec<_> = queue.act(Filter::default(), Action::Release).try_collect().await.unwrap();
    assert_eq!(acted.iter().filter(|acted| acted.result == ActResult::Done).count(), 1);
    store.assert_whole(&queue, |_| true).await;
}

/// Its envelope is legible, so it stays in the queue: its sender can be told.
#[tokio::test]
async fn damaged_content_moves_and_stays_damaged() {
    let store = Store::new(5000).await;
    let at = store.victim.message;
    store.flip(at, HEADER_BYTES as u32 + at.meta_bytes + 99);
    let queue = make_room(&store, &[store.octets(at)]).await;
    assert_eq!(list(&queue).await.len(), OLD);
    store.assert_whole(&queue, |n| n != VICTIM).await;
    queue.halt();
    let (queue, _) = open(&store.disk.cut());
    queue.act(Filter::default(), Action::RetryNow).for_each(|_| async {}).await;
    let leases = lease_all(&queue).await;
    let lease = leases.iter().find(|lease| lease.job().id.message == store.id()).unwrap();
    assert!(matches!(read(&**lease).await, Err(ContentError::Damaged(_))));
}

#[tokio::test]
async fn a_block_that_cannot_be_read_holds_up_one_message_until_it_can() {
    let store = Store::new(5000).await;
    let at = store.victim.message;
    store.disk.bad_block(Some((&segment::path(at.segment.get()), u64::from(at.offset) + 50)));
    let (queue, metrics) = open(&store.disk);
    deliver(&queue).await;
    until("the others have moved", async || {
        queue.poke();
        metrics.moved_messages.get() >= OLD as u64 - 1
    })
    .await;
    assert!(has_segment(&store.disk, at));
    assert_eq!(list(&queue).await.len(), OLD, "what cannot be read now is not gone");
    assert!(kept(&store.disk, store.id()).is_empty());
    store.disk.bad_block(None);
    freed(&queue, &store.disk, at).await;
    store.assert_whole(&queue, |_| true).await;
}

#[tokio::test]
async fn what_is_in_memory_is_not_damaged() {
    let disk = SimDisk::new(1, Syncs::Honest);
    let (queue, metrics) = open(&disk);
    let (id, sent) = send(&queue, body(VICTIM, 5000)).await;
    sent.unwrap();
    let at = queue.shared().index().schedule.of_message(id)[0].payload.message;
    let held = lease_all(&queue).await.pop().unwrap();
    disk.flip(&segment::path(at.segment.get()), u64::from(at.offset));
    for n in 0..PASSING {
        send(&queue, body(n, 8000)).await.1.unwrap();
    }
    deliver(&queue).await;
    freed(&queue, &disk, at).await;
    assert!(read(&*held).await.unwrap() == content(&body(VICTIM, 5000)));
    assert_eq!(metrics.quarantined.get(), 0);
}

/// A worker that has it may know what the disk does not.
#[tokio::test]
async fn what_a_worker_has_in_hand_stays() {
    let store = Store::new(5000).await;
    let (queue, metrics) = open(&store.disk);
    let retry = Filter { message: Some(store.id()), ..Filter::default() };
    queue.act(retry.clone(), Action::RetryNow).for_each(|_| async {}).await;
    let mut held = None;
    for mut lease in lease_all(&queue).await {
        if lease.job().id.message == store.id() {
            held = Some(lease);
        } else {
            lease.settle(&done()).await.unwrap();
        }
    }
    let mut held = held.unwrap();
    queue.shared().index().cache.clear();
    store.flip_message();
    until("the others have moved", async || {
        queue.poke();
        metrics.moved_messages.get() >= OLD as u64 - 1
    })
    .await;
    let cancelled: Vec<_> = queue.act(retry, Action::CancelSilently).try_collect().await.unwrap();
    assert_eq!(cancelled[0].result, ActResult::NotApplicable);
    held.settle(&done()).await.unwrap();
    freed(&queue, &store.disk, store.victim.message).await;
    assert_eq!(list(&queue).await.len(), OLD - 1);
}

#[tokio::test]
async fn a_damaged_job_is_listed_and_can_be_cancelled() {
    let store = Store::new(5000).await;
    store.flip_message();
    let (queue, _) = open(&store.disk);
    let listed = list(&queue).await;
    assert_eq!(listed.len(), OLD + PASSING);
    let victim = listed.iter().find(|job| job.id.message == store.id()).unwrap();
    assert_eq!((&*victim.sender, victim.phase), ("?", Phase::Deferred));
    assert!(victim.last_reply.as_ref().unwrap().contains("damaged"), "{victim:?}");
    let only = Filter { message: Some(store.id()), ..Filter::default() };
    let from = Filter { sender: Some("sender@example.org".into()), ..only.clone() };
    assert_eq!(queue.list(from).count().await, 0, "who sent it is not known");
    assert!(queue.show(store.id()).await.is_err());
    for action in [Action::Hold, Action::Release, Action::RetryNow, Action::CancelWithDsn] {
        let acted: Vec<_> = queue.act(only.clone(), action).collect().await;
        let [Err(error)] = &acted[..] else { panic!("{action:?}: {acted:?}") };
        let cause = std::error::Error::source(error).unwrap().to_string();
        assert!(cause.contains(&store.id().to_string()) && cause.contains("cancel"), "{cause}");
    }
    let held: Vec<_> = queue.act(Filter::default(), Action::Hold).collect().await;
    assert_eq!(held.len(), OLD + PASSING);
    assert!(held[..held.len() - 1].iter().all(Result::is_ok) && held.last().unwrap().is_err());
    let octets = store.octets(store.victim.message);
    let acted: Vec<_> = queue.act(only, Action::CancelSilently).try_collect().await.unwrap();
    assert_eq!(acted[0].result, ActResult::Done);
    assert_eq!(list(&queue).await.len(), OLD + PASSING - 1);
    assert_eq!(kept(&store.disk, store.id()), [octets]);
    let (queue, _) = open(&store.disk.cut());
    assert_eq!(list(&queue).await.len(), OLD + PASSING - 1);
}

/// One copy, one count, however often somebody comes across it.
#[tokio::test]
async fn a_damaged_job_that_is_due_is_set_aside_once() {
    let store = Store::new(5000).await;
    let (queue, metrics) = open(&store.disk);
    let only = Filter { message: Some(store.id()), ..Filter::default() };
    queue.act(only, Action::RetryNow).for_each(|_| async {}).await;
    store.flip_message();
    let leases = lease_all(&queue).await;
    assert_eq!(leases.len(), PASSING);
    assert_eq!(queue.stats().await.unwrap().quarantined, 1);
    drop(leases);
    deliver(&queue).await;
    freed(&queue, &store.disk, store.victim.message).await;
    assert_eq!(metrics.quarantined.get(), 1);
    assert_eq!(kept(&store.disk, store.id()).len(), 1);
}

/// What the power cut at an operation leaves of making room.
async fn cut_while_making_room(base: &Store, flip: impl Fn(&Store), off: u64) -> bool {
    let Store { old, victim, victim_bytes, .. } = base;
    let (disk, old) = (base.disk.copy(), old.clone());
    let store = Store { disk, old, victim: *victim, victim_bytes: *victim_bytes };
    flip(&store);
    let octets = store.octets(victim.message);
    let (queue, _) = open(&store.disk);
    let off = store.disk.operations() + off;
    store.disk.power_off_at(off);
    let leases = queue.lease(HopKind::Smtp, PASSING, usize::MAX).await.unwrap();
    let settled = leases.into_iter().map(async |mut lease| lease.settle(&done()).await);
    futures::future::join_all(settled).await;
    until("room is made, or the power is off", async || {
        queue.poke();
        !has_segment(&store.disk, victim.message) || store.disk.operations() >= off
    })
    .await;
    let is_freed = !has_segment(&store.disk, victim.message);
    let after = store.disk.cut();
    drop(queue);
    for disk in [after.copy().cut(), after] {
        let (queue, _) = open(&disk);
        store.assert_whole(&queue, |n| n != VICTIM).await;
        let is_queued = list(&queue).await.iter().any(|job| job.id.message == store.id());
        let is_kept = kept(&disk, store.id()).contains(&octets);
        assert!(is_queued || is_kept, "cut at {off}: nothing is left of the damaged message");
        deliver(&queue).await;
        freed(&queue, &disk, victim.message).await;
    }
    is_freed
}

#[tokio::test]
async fn a_power_cut_while_a_damaged_message_leaves_loses_nothing() {
    for victim_bytes in [5000, 50_000] {
        let base = Store::new(victim_bytes).await;
        let mut off = 0;
        while !cut_while_making_room(&base, Store::flip_message, off).await {
            off += 1;
            assert!(off < 1000, "the run has an end");
        }
        assert!(off > 15, "{off} operations prove little");
    }
}

#[tokio::test]
async fn a_power_cut_while_a_damaged_job_is_cancelled_loses_no_octet() {
    let store = Store::new(5000).await;
    store.flip_message();
    let octets = store.octets(store.victim.message);
    let mut off = 0;
    loop {
        let disk = store.disk.copy();
        let (queue, _) = open(&disk);
        disk.power_off_at(disk.operations() + off);
        let only = Filter { message: Some(store.id()), ..Filter::default() };
        let acted: Vec<_> = queue.act(only, Action::CancelSilently).collect().await;
        let is_done = acted[0].is_ok();
        let after = disk.cut();
        drop(queue);
        let (queue, _) = open(&after);
        let is_queued = list(&queue).await.iter().any(|job| job.id.message == store.id());
        assert!(!is_done || !is_queued, "cut at {off}: it came back");
        assert!(is_queued || kept(&after, store.id()).contains(&octets), "cut at {off}");
        store.assert_whole(&queue, |n| n != VICTIM).await;
        if is_done {
            break;
        }
        off += 1;
    }
    assert!(off >= 4, "{off} operations prove little");
}
