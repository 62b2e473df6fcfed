//! Accepting mail, and reading it back.

use crate::contract::{AcceptError, ContentError};

use super::mail::{HOUR, Mail, defer, done};
use super::trial::{Trial, read, read_all};
use super::{Fault, Harness, Step, Support};
use crate::model::{Filter, Wait};

pub async fn committed_mail_survives_a_crash<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let mails = [
        Mail::to("a.example").and_to("b.example"),
        Mail::to("c.example").recipients(1000),
        Mail::to("d.example").from(""),
        Mail::to("e.example")
            .and_forwarded_to("e.example", "f.example")
            .and_forwarded_to("e.example", "g.example"),
    ];
    let mut ids = Vec::new();
    for mail in &mails {
        ids.push(trial.send(mail).await);
    }
    let now = trial.now();
    trial.harness.crash().await;
    for (mail, id) in mails.iter().zip(ids) {
        let jobs = trial.jobs(id).await;
        assert_eq!(jobs.len(), mail.jobs.len());
        for (job, new) in jobs.iter().zip(&mail.jobs) {
            assert_eq!(*job.envelope, mail.envelope(now));
            assert_eq!(job.next_hop, new.next_hop);
            assert_eq!(job.forward, new.forward);
            let recipients = job.recipients.iter().map(|state| &state.recipient);
            assert!(recipients.eq(&new.recipients));
        }
    }
    for lease in trial.lease_all(usize::MAX).await {
        assert_eq!(read(&*lease).await.unwrap(), mails[0].content());
    }
}

pub async fn a_repeated_commit_queues_once<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let mail = Mail::to("a.example");
    let mut draft = trial.draft(&mail).await.unwrap();
    for _ in 0..3 {
        draft.commit(mail.head.clone(), mail.jobs.clone()).await.unwrap();
    }
    assert_eq!(trial.list(Filter::default()).await.len(), 1);
    trial.settle_next(draft.id(), &done()).await;
    draft.commit(mail.head.clone(), mail.jobs.clone()).await.unwrap();
    trial.nothing_due("a commit repeated after delivery queues nothing").await;
}

pub async fn a_commit_of_unknown_outcome_is_resolved_by_repeating_it<H: Harness>() {
    for fault in [Fault::UnknownKept, Fault::UnknownLost] {
        let mut trial = Trial::<H>::new().await;
        let mail = Mail::to("a.example");
        let mut draft = trial.draft(&mail).await.unwrap();
        if trial.harness.fail_next(Step::Commit, fault) == Support::Unsupported {
            continue;
        }
        let unknown = draft.commit(mail.head.clone(), mail.jobs.clone()).await;
        assert!(matches!(unknown, Err(AcceptError::Unknown(_))), "{unknown:?}");
        draft.commit(mail.head.clone(), mail.jobs.clone()).await.unwrap();
        trial.harness.crash().await;
        let lease = trial.lease().await;
        assert_eq!(lease.job().id.message, draft.id());
        assert_eq!(read(&*lease).await.unwrap(), mail.content());
        trial.nothing_due("queued once").await;
    }
}

pub async fn an_unavailable_commit_keeps_nothing<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let mail = Mail::to("a.example");
    let mut draft = trial.draft(&mail).await.unwrap();
    if trial.harness.fail_next(Step::Commit, Fault::Unavailable) == Support::Unsupported {
        return;
    }
    let refused = draft.commit(mail.head.clone(), mail.jobs.clone()).await;
    assert!(matches!(refused, Err(AcceptError::Unavailable(_))), "{refused:?}");
    let id = draft.id();
    drop(draft);
    assert_eq!(trial.jobs(id).await, []);
    trial.harness.crash().await;
    assert_eq!(trial.jobs(id).await, []);
    trial.send(&mail).await;
}

pub async fn a_dropped_draft_never_was<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    for size in [10, 3 << 20] {
        let mail = Mail::to("a.example").body(vec![b'x'; size]);
        drop(trial.draft(&mail).await.unwrap());
    }
    trial.nothing_due("before a crash").await;
    trial.harness.crash().await;
    trial.nothing_due("after a crash").await;
    assert_eq!(trial.queue().stats().await.unwrap().messages, 0);
}

pub async fn content_is_exact_to_the_octet<H: Harness>() {
    for size in [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let mut trial = Trial::<H>::new().await;
        // Every octet value, and no period that divides a block.
        let body: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8 ^ (n >> 16) as u8).collect();
        let mail = Mail::to("a.example").body(body);
        let id = trial.send(&mail).await;
        let mut lease = trial.lease().await;
        assert!(read(&*lease).await.unwrap() == mail.content(), "{size} octets");
        lease.settle(&defer(trial.now() + HOUR, Wait::Time)).await.unwrap();
        drop(lease);
        trial.harness.crash().await;
        trial.advance(2 * HOUR);
        let lease = trial.lease().await;
        assert_eq!(lease.job().id.message, id);
        assert!(read(&*lease).await.unwrap() == mail.content(), "{size} octets, after a crash");
    }
}

pub async fn damaged_content_is_told_and_other_mail_is_read<H: Harness>() {
    let mut trial = Trial::<H>::new().await;
    let mail = |domain| Mail::to(domain).body(vec![b'x'; 100_000]);
    trial.send(&mail("before.example")).await;
    let damaged = trial.send(&mail("damaged.example")).await;
    trial.send(&mail("after.example")).await;
    if trial.harness.damage(damaged).await == Support::Unsupported {
        return;
    }
    let shown = match trial.queue().content(damaged).await {
        Ok(content) => read_all(content.unwrap()).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(shown, Err(ContentError::Damaged(_))), "an operator is told: {shown:?}");
    let mut read_well = 0;
    for lease in trial.lease_all(usize::MAX).await {
        let content = read(&*lease).await;
        if lease.job().id.message == damaged {
            assert!(matches!(content, Err(ContentError::Damaged(_))), "{content:?}");
        } else {
            assert_eq!(content.unwrap(), mail("other.example").content());
            read_well += 1;
        }
    }
    assert_eq!(read_well, 2);
}
