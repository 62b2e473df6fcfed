//! Connections, transactions, leases and settlements in their order.

use std::sync::Arc;

use queue::{Disposition, LeaseReason, RecipientStatus};
use tokio::sync::Notify;

use crate::peer::{Act, Peer, Script, say};
use crate::world::{CONTENT, World, job, summary};

fn mails(peer: &Peer) -> usize {
    peer.commands().iter().filter(|line| line.starts_with("MAIL")).count()
}

#[tokio::test]
async fn one_connection_for_many_messages_each_settled_before_the_next() {
    let peer = Arc::new(Peer::start(Script::default()).await);
    let mut world = World::to(&peer);
    world.config.connections_max = 1;
    let seen = peer.clone();
    world.observe_settlements(move || mails(&seen));
    for _ in 0..5 {
        world.add(job(&["a@there.example"]), CONTENT);
    }
    world.start();
    world.settled(5).await;
    world.stop().await;
    assert_eq!(world.observed(), [1, 2, 3, 4, 5], "MAIL commands before each settlement");
    assert_eq!((peer.connections(), peer.messages().len()), (1, 5));
    peer.saw("QUIT").await;
}

#[tokio::test]
async fn a_connection_serves_a_limited_number_of_messages() {
    let peer = Peer::start(Script::default()).await;
    let mut world = World::to(&peer);
    world.config.connections_max = 1;
    world.config.messages_per_connection_max = 2;
    for _ in 0..5 {
        world.add(job(&["a@there.example"]), CONTENT);
    }
    world.start();
    world.settled(5).await;
    world.stop().await;
    assert_eq!(peer.connections(), 3);
}

/// After a BDAT that failed, the state of the transaction is not known (RFC 3030 §2).
#[tokio::test]
async fn a_refused_bdat_is_followed_by_rset() {
    for (dot, resets) in [("554 5.7.1 spam\n", 1), ("250 2.0.0 ok\n", 0)] {
        let peer = Peer::start(Script { dot: say(dot), ..Script::default() }.chunking()).await;
        let mut world = World::to(&peer);
        world.config.connections_max = 1;
        for _ in 0..2 {
            world.add(job(&["a@there.example"]), CONTENT);
        }
        world.start();
        world.settled(2).await;
        world.stop().await;
        assert_eq!(peer.connections(), 1);
        let reset = peer.commands().iter().filter(|line| *line == "RSET").count();
        assert_eq!(reset, resets, "{dot}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_used_again_and_replaced_when_closed() {
    for (messages_max, connections) in [(usize::MAX, 1), (1, 2)] {
        let peer = Peer::start(Script { messages_max, ..Script::default() }).await;
        let world = World::to(&peer);
        world.start();
        world.add(job(&["a@there.example"]), CONTENT);
        world.settled(1).await;
        world.add(job(&["a@there.example"]), CONTENT);
        let settled = world.settled(2).await;
        world.stop().await;
        let second = summary(&settled[1].0, &settled[1].1);
        assert_eq!(second.recipients, ["delivered 250 2.0.0"]);
        assert_eq!(peer.connections(), connections);
    }
}

#[tokio::test]
async fn more_recipients_than_a_transaction_takes() {
    let peer = Peer::start(Script::default()).await;
    let mut world = World::to(&peer);
    world.config.recipients_per_transaction_max = 2;
    let job = job(&["a@there.example", "b@there.example", "c@there.example"]);
    let (summary, settlement) = world.deliver(job.clone(), CONTENT).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0", "delivered 250 2.0.0", "untried"]);
    let Disposition::Defer { until, .. } = settlement.disposition else {
        panic!("the third recipient is forgotten");
    };
    assert!(until <= runtime::clock::now(), "the third recipient need not wait");
    assert_eq!(peer.messages()[0].rcpts.len(), 2);
}

/// RFC 5321 §4.5.3.1.10: what a server takes no more of now goes in the next transaction.
#[tokio::test]
async fn too_many_recipients_for_the_host() {
    for (code, last, at_once) in [
        ("452 too many\n", "untried", true),
        ("452 4.5.3 too many\n", "untried", true),
        ("552 too many\n", "untried", true),
        ("452 4.2.2 mailbox full\n", "pending 452 4.2.2", false),
        ("552 5.2.2 mailbox full\n", "bounced 552 5.2.2", false),
    ] {
        let peer = Peer::start(Script { rcpt_bad: say(code), ..Script::default() }).await;
        let job = job(&["a@there.example", "bad@there.example"]);
        let (summary, settlement) = World::to(&peer).deliver(job, CONTENT).await;
        assert_eq!(summary.recipients, ["delivered 250 2.0.0", last], "{code}");
        let now = runtime::clock::now();
        let due =
            matches!(settlement.disposition, Disposition::Defer { until, .. } if until <= now);
        assert_eq!(due, at_once, "{code}");
    }
}

/// The lease is checked before each connection, before MAIL and before the final dot. By BDAT a
/// small message goes in one piece, MAIL and all, after the last check.
#[tokio::test]
async fn a_lost_lease_stops_the_attempt() {
    for (checks, mail_seen, script) in [
        (0, false, Script::default()),
        (1, false, Script::default()),
        (2, true, Script::default()),
        (0, false, Script::default().chunking()),
        (1, false, Script::default().chunking()),
        (2, false, Script::default().chunking()),
    ] {
        let peer = Peer::start(script).await;
        let world = World::to(&peer);
        world.let_lease_lapse_after(checks);
        world.add(job(&["a@there.example"]), CONTENT);
        world.start();
        world.released().await;
        world.stop().await;
        assert_eq!(mails(&peer) > 0, mail_seen, "{checks}");
        assert!(peer.messages().is_empty(), "{checks}: no final dot without a lease");
        assert!(world.metric("delivery_leases_lost_total") > 0.0);
    }
}

#[tokio::test]
async fn an_outcome_is_recorded_again_until_the_queue_has_it() {
    let peer = Peer::start(Script::default()).await;
    let world = World::to(&peer);
    world.let_settling_fail(3);
    let (summary, _) = world.deliver(job(&["a@there.example"]), CONTENT).await;
    assert_eq!((summary.disposition, peer.messages().len()), ("done", 1));
    assert!(world.metric("delivery_settlements_repeated_total") > 2.0);
}

#[tokio::test]
async fn damaged_content_is_quarantined_and_not_half_delivered() {
    let peer = Peer::start(Script::default()).await;
    let world = World::to(&peer);
    world.add_damaged(job(&["a@there.example"]));
    world.start();
    let (job, settlement) = world.settled(1).await.remove(0);
    world.stop().await;
    assert_eq!(summary(&job, &settlement).disposition, "quarantine");
    assert!(peer.messages().is_empty());
}

#[tokio::test]
async fn a_probe_over_an_old_connection_brings_its_hop_up() {
    let peer = Peer::start(Script::default()).await;
    let world = World::to(&peer);
    world.start();
    world.add(job(&["a@there.example"]), CONTENT);
    world.settled(1).await;
    world.add_for(job(&["a@there.example"]), LeaseReason::Probe);
    world.settled(2).await;
    world.stop().await;
    assert_eq!(peer.connections(), 1);
    assert_eq!(world.hops(), ["there.example up", "there.example up"]);
}

/// The outcome is recorded all the same: not to know it would mean to find it out again.
#[tokio::test]
async fn a_dsn_goes_without_content_that_cannot_be_read() {
    let peer = Peer::start(Script::default()).await;
    let world = World::to(&peer);
    world.add_damaged(job(&["bad@there.example"]));
    world.start();
    let (job, settlement) = world.settled(1).await.remove(0);
    world.stop().await;
    let summary = summary(&job, &settlement);
    assert_eq!((summary.disposition, summary.dsns), ("done", 1));
}

#[tokio::test]
async fn jobs_that_are_not_to_be_attempted() {
    let peer = Peer::start(Script::default()).await;
    let world = World::to(&peer);
    let expired = || {
        let mut job = job(&["a@there.example"]);
        crate::world::change(&mut job, |envelope| envelope.expires = envelope.arrival);
        job
    };
    world.add_for(job(&["a@there.example"]), LeaseReason::Cancelled);
    world.add_for(expired(), LeaseReason::Deadline);
    world.start();
    let settled = world.settled(2).await;
    world.stop().await;
    for (job, settlement) in &settled {
        let summary = summary(job, settlement);
        assert_eq!((summary.disposition, summary.dsns), ("done", 1));
        assert_eq!(settlement.progress[0].status, RecipientStatus::Bounced);
        assert_eq!(settlement.attempt, None);
    }
    assert_eq!(peer.connections(), 0);
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_gives_back_what_takes_too_long() {
    let told = Arc::new(Notify::new());
    let dot = Act::SayWhen(told.clone(), b"250 2.0.0 ok\r\n".to_vec());
    let peer = Peer::start(Script { dot, ..Script::default() }).await;
    let world = World::to(&peer);
    world.add(job(&["a@there.example"]), CONTENT);
    world.start();
    peer.saw("DATA").await;
    world.begin_stop();
    world.add(job(&["b@there.example"]), CONTENT);
    told.notify_one();
    let settled = world.settled(1).await;
    world.stop().await;
    assert_eq!(summary(&settled[0].0, &settled[0].1).recipients, ["delivered 250 2.0.0"]);
    assert_eq!(peer.messages().len(), 1, "nothing was leased any more");

    let peer = Peer::start(Script { dot: Act::Silent, ..Script::default() }).await;
    let mut world = World::to(&peer);
    world.config.timeouts.final_dot_seconds = 600;
    world.add(job(&["a@there.example"]), CONTENT);
    world.start();
    peer.saw("DATA").await;
    world.stop().await;
    assert_eq!(world.released_count(), 1);
}
