//! What operators see and do.

use std::time::Duration;

use mail_types::{QueueId, TenantId};

use super::Harness;
use super::mail::{HOUR, MINUTE, Mail, defer, done, hop};
use super::trial::Trial;
use crate::contract::ActResult;
use crate::model::{Action, Filter, LeaseReason, Phase, Wait};

pub async fn lists_are_filtered_and_in_order_of_arrival<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let old = trial.send(&Mail::to("a.example").of("globex")).await;
    trial.advance(HOUR);
    let null = trial.send(&Mail::to("b.example").from("")).await;
    trial.advance(MINUTE);
    let other =
        trial.send(&Mail::to("c.example").from("x@other.example").and_to("d.example")).await;
    let deferred = trial.lease().await;
    assert_eq!(deferred.job().id.message, old);
    let any = Filter::default;
    for (filter, want) in [
        (any(), vec![old, null, other, other]),
        (Filter { message: Some(null), ..any() }, vec![null]),
        (Filter { tenant: Some(TenantId::new("globex")), ..any() }, vec![old]),
        (Filter { tenant: Some(TenantId::new("nobody")), ..any() }, vec![]),
        (Filter { sender: Some(String::new()), ..any() }, vec![null]),
        (Filter { sender: Some("x@Other.Example".into()), ..any() }, vec![other, other]),
        (Filter { sender: Some("@example.org".into()), ..any() }, vec![old]),
        (Filter { recipient_domain: "d.example".parse().ok(), ..any() }, vec![other]),
        (Filter { phase: Some(Phase::Active), ..any() }, vec![old]),
        (Filter { phase: Some(Phase::Ready), ..any() }, vec![null, other, other]),
        (Filter { older_than: Some(Duration::from_secs(30)), ..any() }, vec![old, null]),
    ] {
        let listed: Vec<QueueId> =
            trial.list(filter.clone()).await.iter().map(|summary| summary.id.message).collect();
        assert_eq!(listed, want, "{filter:?}");
    }
    let summary = trial.list(Filter { message: Some(other), ..any() }).await.remove(0);
    assert_eq!(summary.sender, "x@other.example");
    assert_eq!(summary.recipients, ["user0@c.example"]);
    assert_eq!((summary.recipients_pending, summary.attempts), (1, 0));
    assert_eq!(summary.next_hop, "smtp:c.example");
}

pub async fn content_is_shown_whoever_has_the_job<H: Harness>() {
    for size in [100, 700_000, 3 << 20] {
        let trial = Trial::<H>::new().await;
        let body: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8 ^ (n >> 16) as u8).collect();
        let mail = Mail::to("a.example").body(body);
        let id = trial.send(&mail).await;
        assert!(trial.content(id).await == mail.content(), "{size} octets, waiting");
        let mut lease = trial.lease().await;
        assert!(trial.content(id).await == mail.content(), "{size} octets, leased");
        lease.settle(&defer(trial.now() + HOUR, Wait::Time)).await.unwrap();
        drop(lease);
        assert!(trial.content(id).await == mail.content(), "{size} octets, deferred");
        trial.advance(2 * HOUR);
        trial.settle_next(id, &done()).await;
        let shown = trial.queue().content(id).await.unwrap();
        assert!(shown.is_none(), "what is done is shown to nobody");
    }
}

pub async fn jobs_are_held_and_released<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    assert_eq!(trial.act(id, Action::Release).await, [ActResult::NotApplicable]);
    assert_eq!(trial.act(id, Action::Hold).await, [ActResult::Done]);
    assert_eq!(trial.act(id, Action::Hold).await, [ActResult::NotApplicable]);
    trial.harness.crash().await;
    trial.nothing_due("it is held").await;
    assert_eq!(trial.act(id, Action::RetryNow).await, [ActResult::NotApplicable]);
    assert_eq!(trial.act(id, Action::Release).await, [ActResult::Done]);
    trial.harness.crash().await;
    trial.leased_with(id, LeaseReason::Due).await;
}

pub async fn a_retry_now_passes_a_closed_gate<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("down.example")).await;
    trial.send(&Mail::to("down.example")).await;
    trial.settle_next(id, &defer(trial.now() + HOUR, Wait::Hop)).await;
    trial.queue().hop_down(&hop("down.example"), trial.now() + HOUR);
    assert_eq!(trial.act(id, Action::RetryNow).await, [ActResult::Done]);
    let lease = trial.leased_with(id, LeaseReason::Due).await;
    assert_eq!(trial.act(id, Action::RetryNow).await, [ActResult::NotApplicable]);
    trial.nothing_due("the other waits").await;
    drop(lease);
}

pub async fn a_silent_cancel_drops_the_job<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example").and_to("b.example")).await;
    assert_eq!(trial.act(id, Action::CancelSilently).await, [ActResult::Done; 2]);
    assert_eq!(trial.jobs(id).await, []);
    trial.harness.crash().await;
    assert_eq!(trial.jobs(id).await, []);
    trial.nothing_due("it is gone").await;
}

pub async fn a_cancel_with_dsn_is_left_to_a_worker<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    trial.settle_next(id, &defer(trial.now() + HOUR, Wait::Hop)).await;
    trial.queue().hop_down(&hop("a.example"), trial.now() + HOUR);
    assert_eq!(trial.act(id, Action::CancelWithDsn).await, [ActResult::Requested]);
    drop(trial.leased_with(id, LeaseReason::Cancelled).await);
    trial.harness.crash().await;
    let mut lease = trial.leased_with(id, LeaseReason::Cancelled).await;
    lease.settle(&done().with_dsn("sender.example", trial.now())).await.unwrap();
    assert_eq!(trial.jobs(id).await, []);
    assert!(trial.lease().await.job().envelope.reverse_path.is_null(), "its DSN");
}

pub async fn requests_wait_for_the_end_of_a_lease<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let deferral = defer(trial.now() + HOUR, Wait::Time);
    for (action, phase) in [
        (Action::Hold, Some(Phase::Held)),
        (Action::CancelWithDsn, Some(Phase::Ready)),
        (Action::CancelSilently, None),
    ] {
        let id = trial.send(&Mail::to("a.example")).await;
        let lease = trial.lease().await;
        assert_eq!(trial.act(id, action).await, [ActResult::Requested]);
        assert_eq!(trial.job(id).await.phase, Phase::Active);
        drop(lease);
        let phases = |jobs: Vec<crate::Job>| jobs.first().map(|job| job.phase);
        assert_eq!(phases(trial.jobs(id).await), phase, "{action:?}, given back");
        if phase.is_some() {
            trial.act(id, Action::CancelSilently).await;
        }

        let id = trial.send(&Mail::to("a.example")).await;
        let mut lease = trial.lease().await;
        assert_eq!(trial.act(id, action).await, [ActResult::Requested]);
        lease.settle(&deferral).await.unwrap();
        assert_eq!(phases(trial.jobs(id).await), phase, "{action:?}, deferred");
        if phase.is_some() {
            trial.act(id, Action::CancelSilently).await;
        }

        let id = trial.send(&Mail::to("a.example")).await;
        let mut lease = trial.lease().await;
        assert_eq!(trial.act(id, action).await, [ActResult::Requested]);
        lease.settle(&done()).await.unwrap();
        assert_eq!(trial.jobs(id).await, [], "{action:?}, done before");
    }
}

pub async fn requests_survive_a_crash<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    for (action, phase) in [(Action::Hold, Some(Phase::Held)), (Action::CancelSilently, None)] {
        let id = trial.send(&Mail::to("a.example")).await;
        let lease = trial.lease().await;
        assert_eq!(trial.act(id, action).await, [ActResult::Requested]);
        trial.harness.crash().await;
        drop(lease);
        trial.nothing_due("the request is met").await;
        assert_eq!(trial.jobs(id).await.first().map(|job| job.phase), phase, "{action:?}");
    }
}

pub async fn statistics_count_every_job<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let deferred = trial.send(&Mail::to("a.example")).await;
    trial.settle_next(deferred, &defer(trial.now() + HOUR, Wait::Time)).await;
    let held = trial.send(&Mail::to("b.example")).await;
    trial.act(held, Action::Hold).await;
    trial.send(&Mail::to("c.example")).await;
    let active = trial.lease().await;
    trial.advance(MINUTE);
    let oldest = trial.now();
    let mail = Mail::to("d.example").and_to("e.example");
    trial.send(&mail).await;
    trial.advance(MINUTE);
    trial.send(&mail).await;
    let stats = trial.queue().stats().await.unwrap();
    assert_eq!((stats.messages, stats.content_bytes), (5, 5 * mail.content().len() as u64));
    assert_eq!((stats.ready, stats.active, stats.deferred), (4, 1, 1));
    assert_eq!((stats.held, stats.quarantined), (1, 0));
    assert_eq!(stats.oldest_ready, Some(oldest));
    assert!(stats.store_bytes > stats.content_bytes);
    assert!(stats.store_limit_bytes > stats.store_bytes);
    drop(active);
}
