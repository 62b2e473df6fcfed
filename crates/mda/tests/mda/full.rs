//! Mailboxes with a quota.

use std::fs;
use std::time::Duration;

use domains::StorageId;
use futures::FutureExt;
use queue::simulated::Settings;
use queue::{Phase, Queue};

use crate::world::{World, mailbox, table, table_with_quota, to};

const ALICE: &str = "alice@example.org";
const MAILBOXES: [&str; 2] = [ALICE, "bob@example.org"];
const QUOTA: u64 = 100_000;
const RECIPIENTS: usize = 120;

fn world() -> World {
    let world = World::new();
    world.domains.store(Some(table_with_quota(QUOTA, &MAILBOXES)));
    world
}

fn is_full(world: &World) -> bool {
    world.full.contains(&StorageId::of(&mailbox(ALICE)).unwrap())
}

async fn until_full(world: &World, is_so: bool) {
    let wait = async {
        while is_full(world) != is_so {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(in_time.is_ok(), "not full: {is_so}");
}

/// As the owner, or another of his programs, adds a message.
fn put(world: &World, octets: u64) {
    let cur = world.maildir("alice").join("cur");
    fs::create_dir_all(&cur).unwrap();
    fs::write(cur.join(format!("1.x.y,S={octets}:2,S")), "").unwrap();
}

#[tokio::test]
async fn the_message_that_fills_a_mailbox_is_stored_and_later_ones_wait_for_room() {
    let world = world();
    let process = world.start();
    let large = "x".repeat(98) + "\r\n";
    let id = world.accept_with(vec![to(ALICE)], large.repeat(990).into()).await;
    world.until_done(id).await;
    assert!(!is_full(&world));
    // Goes beyond the quota, for it was accepted when there was room.
    let id = world.accept_with(vec![to(ALICE)], large.repeat(500).into()).await;
    world.until_done(id).await;
    assert!(is_full(&world));
    assert_eq!(world.counted("mda_mailboxes_full"), 1);
    // Was accepted before anybody knew: neither stored nor bounced; others have theirs.
    let id = world.accept(vec![to(ALICE), to("bob@example.org")]).await;
    let job = world.until(id, |job| job.phase == Phase::Deferred).await.unwrap();
    let reply = job.recipients[0].last.as_ref().unwrap().reply.to_string();
    assert_eq!(reply, "452 4.2.2 the mailbox is full");
    assert_eq!(job.pending().map(|(index, _)| index).collect::<Vec<_>>(), [0]);
    // Its owner makes room.
    let new = world.maildir("alice").join("new");
    for file in fs::read_dir(&new).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    world.until_done(id).await;
    assert!(!is_full(&world));
    assert_eq!(world.files().len(), 2);
    process.stop().await;
}

#[tokio::test]
async fn what_was_on_its_way_is_stored_up_to_a_tenth_beyond() {
    let world = world();
    put(&world, QUOTA);
    let process = world.start();
    let id = world.accept(vec![to(ALICE)]).await;
    world.until_done(id).await;
    assert!(is_full(&world));
    assert_eq!(world.files().len(), 2);
    process.stop().await;
}

/// It was accepted; there is never room. Its last attempt is the first that may end too late.
#[tokio::test]
async fn what_waits_for_room_is_stored_when_its_time_is_over() {
    let mut world = world();
    world.keeps = Settings::default().lease_time + Duration::from_secs(8);
    put(&world, QUOTA * 2);
    let process = world.start();
    // More than one attempt takes at other times.
    let recipients = (0..RECIPIENTS).map(|n| to(&format!("alice+{n}@example.org"))).collect();
    let id = world.accept(recipients).await;
    world.until(id, |job| job.phase == Phase::Deferred).await.unwrap();
    assert_eq!(world.files().len(), 1, "it is not stored before");
    world.until_done(id).await;
    assert_eq!(world.files().len(), 1 + RECIPIENTS);
    let told = world.queue.lease(queue::HopKind::Smtp, 1, 1);
    assert!(told.now_or_never().is_none(), "nobody is told");
    process.stop().await;
}

/// Nobody sends anything: the MDA looks by itself.
#[tokio::test]
async fn what_happens_without_us_is_seen() {
    let world = world();
    put(&world, QUOTA);
    let process = world.start();
    until_full(&world, true).await;
    world.domains.store(Some(table_with_quota(QUOTA * 2, &MAILBOXES)));
    until_full(&world, false).await;
    process.stop().await;
    world.domains.store(Some(table_with_quota(QUOTA, &MAILBOXES)));
    let process = world.start();
    until_full(&world, true).await;
    world.domains.store(Some(table(&MAILBOXES)));
    until_full(&world, false).await;
    process.stop().await;
}

/// A copy that is there needs no room.
#[tokio::test]
async fn a_repeated_job_of_a_full_mailbox_is_done() {
    use queue::simulated::{Fault, Step};
    let world = world();
    let process = world.start();
    for _ in 0..4 {
        world.queue.fail_next(Step::Settle, Fault::Unavailable);
    }
    let id = world.accept(vec![to(ALICE)]).await;
    world.until(id, |_| !world.files().is_empty()).await.unwrap();
    process.shutdown.cancel();
    world.queue.crash();
    put(&world, QUOTA * 2);
    let process = world.start();
    world.until_done(id).await;
    assert_eq!(world.files().len(), 2);
    process.stop().await;
}
