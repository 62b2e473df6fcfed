//! Next hops that are down.

use super::Harness;
use super::mail::{HOUR, MINUTE, Mail, defer, defer_waking, hop};
use super::trial::Trial;
use crate::model::{LeaseReason, Phase, Wait};

pub async fn a_down_hop_holds_back_its_jobs_only<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let down = trial.send(&Mail::to("down.example")).await;
    trial.queue().hop_down(&hop("down.example"), trial.now() + HOUR);
    let later = trial.send(&Mail::to("down.example")).await;
    let up = trial.send(&Mail::to("up.example")).await;
    let leased = trial.lease_all(9).await;
    assert_eq!(leased.len(), 1, "jobs of other next hops");
    assert_eq!(leased[0].job().id.message, up);
    assert!(trial.queue().lease_more(&hop("down.example")).await.unwrap().is_none());
    for id in [down, later] {
        assert_eq!(trial.job(id).await.phase, Phase::Deferred);
    }
    assert_eq!(trial.queue().stats().await.unwrap().deferred, 2);
    trial.queue().hop_up(&hop("down.example"));
    assert_eq!(trial.lease_all(9).await.len(), 2);
}

pub async fn a_down_hop_is_probed_by_one_job<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let down = hop("down.example");
    for _ in 0..5 {
        trial.send(&Mail::to("down.example")).await;
    }
    trial.queue().hop_down(&down, trial.now() + MINUTE);
    trial.advance(MINUTE);
    let probe = trial.lease().await;
    assert_eq!(probe.reason(), LeaseReason::Probe);
    trial.nothing_due("one probe at a time").await;
    drop(probe);
    let mut probe = trial.lease().await;
    assert_eq!(probe.reason(), LeaseReason::Probe, "another, when the first found out nothing");
    trial.queue().hop_down(&down, trial.now() + 10 * MINUTE);
    probe.settle(&defer(trial.now() + 10 * MINUTE, Wait::Hop)).await.unwrap();
    trial.advance(MINUTE);
    trial.nothing_due("it is down for longer").await;
    trial.advance(10 * MINUTE);
    let probe = trial.lease().await;
    assert_eq!(probe.reason(), LeaseReason::Probe);
    trial.queue().hop_up(&down);
    let rest = trial.lease_all(9).await;
    assert_eq!(rest.len(), 4, "all others, once it is up");
    assert!(rest.iter().all(|lease| lease.reason() == LeaseReason::Due));
}

pub async fn a_recovered_hop_wakes_those_that_waited_for_it<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let mut waiting = Vec::new();
    let later = trial.now() + 4 * HOUR;
    for n in 0..10 {
        let id = trial.send(&Mail::to("down.example")).await;
        let wait = if n == 0 { Wait::Time } else { Wait::Hop };
        trial.settle_next(id, &defer(later, wait)).await;
        waiting.push(id);
    }
    trial.nothing_due("all are deferred").await;
    // Also when the wait was read back after a crash.
    trial.harness.crash().await;
    trial.queue().hop_down(&hop("down.example"), trial.now() + MINUTE);
    trial.advance(MINUTE);
    let probe = trial.lease().await;
    assert_eq!(probe.reason(), LeaseReason::Probe, "one that waits for the hop, before its time");
    trial.queue().hop_up(&hop("down.example"));
    let rest = trial.lease_all(100).await;
    assert_eq!(rest.len(), 8, "all that waited for the hop");
    let leased = |id| rest.iter().any(|lease| lease.job().id.message == id);
    assert!(!leased(waiting[0]), "the other keeps its time");
}

pub async fn a_deadline_passes_a_closed_gate<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("down.example")).await;
    let (until, wake_by) = (trial.now() + 8 * HOUR, trial.now() + 4 * HOUR);
    trial.settle_next(id, &defer_waking(until, wake_by)).await;
    trial.queue().hop_down(&hop("down.example"), trial.now() + 100 * HOUR);
    trial.advance(4 * HOUR - MINUTE);
    trial.nothing_due("before the deadline").await;
    trial.advance(MINUTE);
    trial.leased_with(id, LeaseReason::Deadline).await;
    trial.queue().hop_up(&hop("down.example"));
    trial.leased_with(id, LeaseReason::Due).await;
}

pub async fn a_crash_opens_the_gates<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("down.example")).await;
    trial.queue().hop_down(&hop("down.example"), trial.now() + HOUR);
    trial.nothing_due("the hop is down").await;
    trial.harness.crash().await;
    trial.leased_with(id, LeaseReason::Due).await;
}
