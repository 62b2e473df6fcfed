//! Outcomes: recorded in one durable step, with their follow-ups, once.

use super::mail::{HOUR, MINUTE, Mail, defer, done};
use super::trial::{Trial, read};
use super::{Fault, Harness, Step, Support};
use crate::contract::SettleError;
use crate::model::{
    Attempt, Disposition, JobId, LeaseReason, Phase, RecipientStatus, Settlement, Wait,
};

pub async fn a_done_job_is_forgotten<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    trial.settle_next(id, &done()).await;
    assert_eq!(trial.jobs(id).await, []);
    trial.harness.crash().await;
    assert_eq!(trial.jobs(id).await, []);
    trial.nothing_due("it is done").await;
}

pub async fn a_deferred_job_comes_back_at_its_time<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    for crash in [false, true] {
        let until = trial.now() + HOUR;
        trial.settle_next(id, &defer(until, Wait::Time)).await;
        if crash {
            trial.harness.crash().await;
        }
        let job = trial.job(id).await;
        assert_eq!((job.phase, job.next_attempt), (Phase::Deferred, Some(until)));
        trial.advance(HOUR - MINUTE);
        trial.nothing_due("its time has not come").await;
        trial.advance(MINUTE);
        trial.leased_with(id, LeaseReason::Due).await;
    }
}

pub async fn held_and_quarantined_jobs_stay<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let held = trial.send(&Mail::to("a.example")).await;
    trial.settle_next(held, &Settlement { disposition: Disposition::Hold, ..done() }).await;
    let quarantined = trial.send(&Mail::to("b.example")).await;
    let disposition = Disposition::Quarantine { reason: "a flipped bit".into() };
    trial.settle_next(quarantined, &Settlement { disposition, ..done() }).await;
    trial.harness.crash().await;
    trial.advance(1000 * HOUR);
    trial.nothing_due("both stay until an operator releases them").await;
    assert_eq!(trial.job(held).await.phase, Phase::Held);
    let job = trial.job(quarantined).await;
    assert_eq!(job.phase, Phase::Quarantined);
    assert_eq!(job.quarantine_reason.as_deref(), Some("a flipped bit"));
    assert_eq!(job.next_attempt, None);
}

pub async fn what_was_heard_survives_a_crash<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example").recipients(3)).await;
    let mut settlement = defer(trial.now() + MINUTE, Wait::Time);
    settlement = settlement.after_attempt(1, trial.now(), "later, please");
    let mut delivered = settlement.progress[0].clone();
    delivered.recipients = vec![2];
    delivered.status = RecipientStatus::Delivered;
    settlement.progress.push(delivered.clone());
    settlement.delay_reported = true;
    trial.settle_next(id, &settlement).await;
    let before = trial.job(id).await;
    trial.harness.crash().await;
    let job = trial.job(id).await;
    assert_eq!(job, before);
    assert_eq!((job.attempts, job.delay_reported), (1, true));
    assert_eq!(job.history, settlement.attempt.into_iter().collect::<Vec<_>>());
    assert_eq!(job.recipients[0].last.as_ref(), Some(&settlement.progress[0].report));
    assert_eq!(job.recipients[1].last, None);
    assert_eq!(job.recipients[2].last.as_ref(), Some(&delivered.report));
    assert_eq!(job.pending().map(|(place, _)| place).collect::<Vec<_>>(), [0, 1]);
    trial.advance(2 * MINUTE);
    let lease = trial.lease().await;
    assert_eq!((lease.job().attempts, lease.job().phase), (1, Phase::Active));
}

pub async fn history_is_bounded<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    for number in 1..=12 {
        let settlement = defer(trial.now() + MINUTE, Wait::Time);
        let settlement = settlement.after_attempt(number, trial.now(), "later");
        trial.settle_next(id, &settlement).await;
        trial.advance(MINUTE);
    }
    trial.harness.crash().await;
    let job = trial.job(id).await;
    assert_eq!((job.attempts, job.history.len()), (12, Attempt::KEPT));
    assert_eq!(job.history.last().unwrap().number, 12);
}

pub async fn follow_ups_are_queued_with_the_outcome<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    let settlement = done().with_dsn("sender.example", trial.now());
    trial.settle_next(id, &settlement).await;
    trial.harness.crash().await;
    assert_eq!(trial.jobs(id).await, []);
    let lease = trial.lease().await;
    let follow_up = &settlement.follow_ups[0];
    let derived = follow_up.id(JobId { message: id, index: 0 }, 0);
    assert_eq!(lease.job().id.message, derived);
    assert_eq!(*lease.job().envelope, follow_up.envelope);
    let parts = [&follow_up.head.prefix[..], &follow_up.head.header, &follow_up.body];
    assert_eq!(read(&*lease).await.unwrap(), parts.concat());
    trial.nothing_due("the message itself is done").await;
}

pub async fn a_settlement_of_unknown_outcome_is_resolved_by_repeating_it<H: Harness>() {
    for fault in [Fault::UnknownKept, Fault::UnknownLost] {
        let mut trial = Trial::<H>::new().await;
        let id = trial.send(&Mail::to("a.example")).await;
        let mut lease = trial.lease().await;
        if trial.harness.fail_next(Step::Settle, fault) == Support::Unsupported {
            continue;
        }
        let settlement = done().with_dsn("sender.example", trial.now());
        let unknown = lease.settle(&settlement).await;
        assert!(matches!(unknown, Err(SettleError::Unknown(_))), "{unknown:?}");
        lease.settle(&settlement).await.unwrap();
        trial.harness.crash().await;
        assert_eq!(trial.jobs(id).await, []);
        assert_eq!(trial.lease_all(9).await.len(), 1, "its follow-up is made once");
    }
}

pub async fn an_unavailable_settlement_changes_nothing<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    let mut lease = trial.lease().await;
    if trial.harness.fail_next(Step::Settle, Fault::Unavailable) == Support::Unsupported {
        return;
    }
    let settlement = done().with_dsn("sender.example", trial.now());
    let refused = lease.settle(&settlement).await;
    assert!(matches!(refused, Err(SettleError::Unavailable(_))), "{refused:?}");
    trial.nothing_due("the job is still ours, and no follow-up was made").await;
    drop(lease);
    trial.settle_next(id, &settlement).await;
    assert_eq!(trial.lease_all(9).await.len(), 1);
}

pub async fn jobs_of_a_message_are_settled_apart<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let mail = Mail::to("a.example").and_to("b.example");
    let id = trial.send(&mail).await;
    let mut lease = trial.lease().await;
    let first = lease.job().id;
    lease.settle(&done()).await.unwrap();
    trial.harness.crash().await;
    let job = trial.job(id).await;
    assert_ne!(job.id, first);
    let mut lease = trial.lease().await;
    assert_eq!(read(&*lease).await.unwrap(), mail.content());
    lease.settle(&done()).await.unwrap();
    assert_eq!(trial.queue().stats().await.unwrap().messages, 0);
}
