//! Settlements of any attempt at any job.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail_types::{
    BodyType, EnhancedStatus, Envelope, Host, Mailbox, Notify, Origin, QueueId, Recipient, Reply,
    ReplyCode, ReversePath, TenantId, Timestamp,
};
use message::dsn;
use outcome::{Delivery, Effort, Original, Outcome, Route, Settler, Verdict, due_recipients};
use proptest::prelude::*;
use queue::{
    Attempt, Disposition, FollowUpKind, Job, JobId, NewJob, NextHop, Phase, RecipientState,
    RecipientStatus, Report, Settlement, Wait,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use retry::Policy;

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> Timestamp {
    Timestamp::from_unix_ms(1_795_388_895_042)
}

fn settler() -> Settler {
    let route = Route::new(|sender: &Mailbox| match sender.local_part().as_str() {
        "nobody" => Vec::new(),
        _ => vec![NewJob::new(NextHop::smtp(sender.host()), vec![Recipient::new(sender.clone())])],
    });
    Settler::new(Host::parse("us.example").unwrap(), route, Policy::default())
}

fn job(recipients: usize) -> Job {
    let state = |index| RecipientState {
        recipient: Recipient::new(Mailbox::parse(&format!("r{index}@there.example")).unwrap()),
        status: RecipientStatus::Pending,
        last: None,
    };
    Job {
        id: JobId { message: QueueId::new(start(), 7), index: 0 },
        envelope: Arc::new(Envelope {
            reverse_path: ReversePath::parse("s@here.example").unwrap(),
            envid: None,
            ret: None,
            body: BodyType::SevenBit,
            smtputf8: false,
            arrival: start(),
            expires: start() + HOUR * 120,
            tenant: TenantId::new("t"),
            identity: None,
            origin: Origin::Internal,
            trace_parent: None,
        }),
        next_hop: NextHop::smtp(&Host::parse("there.example").unwrap()),
        forward: None,
        recipients: (0..recipients).map(state).collect(),
        size: 100,
        attempts: 0,
        history: Vec::new(),
        delay_reported: false,
        phase: Phase::Active,
        next_attempt: None,
        quarantine_reason: None,
    }
}

fn report(at: Timestamp, code: u16) -> Report {
    let class = u8::try_from(code / 100).unwrap();
    let code = ReplyCode::try_from(code).unwrap();
    let reply = Reply::new(code, EnhancedStatus::new(class, 0, 0), "said");
    Report { at, remote: Some("mx.there.example".into()), reply }
}

fn outcome(kind: u8, at: Timestamp) -> Outcome {
    match kind {
        0 => Outcome::Delivered { report: report(at, 250), delivery: Delivery::Final },
        1 => Outcome::Delivered { report: report(at, 250), delivery: Delivery::RelayedWithDsn },
        2 => Outcome::Deferred { report: report(at, 450), waiting_for: Wait::Time },
        3 => Outcome::Deferred { report: report(at, 451), waiting_for: Wait::Hop },
        _ => Outcome::Bounced { report: report(at, 550) },
    }
}

fn effort(at: Timestamp) -> Effort {
    Effort { at, took_ms: 5, relay: None, tls: None }
}

fn attempt(job: &Job, kinds: &[(u32, u8)], now: Timestamp) -> Settlement {
    let verdict = |(recipient, kind): &(u32, u8)| Verdict {
        recipient: *recipient,
        outcome: outcome(*kind, now),
    };
    let verdicts = kinds.iter().map(verdict).collect();
    let rng = &mut SmallRng::seed_from_u64(1);
    let settler = settler();
    let plan = settler.attempt(job, &Policy::default(), effort(now), verdicts, now, rng);
    let original = Original::Headers(Bytes::from_static(b"Subject: x\r\n"));
    plan.settlement(&settler, job, &original, rng)
}

fn disposition(settlement: &Settlement) -> (&'static str, Option<Timestamp>) {
    match &settlement.disposition {
        Disposition::Done => ("done", None),
        Disposition::Defer { until, waiting_for: Wait::Hop, .. } => ("hop", Some(*until)),
        Disposition::Defer { until, waiting_for: Wait::Time, .. } => ("time", Some(*until)),
        Disposition::Hold | Disposition::Quarantine { .. } => ("stopped", None),
    }
}

#[test]
fn jobs_wait_for_their_hop_only_if_all_do() {
    for (kinds, want) in [
        (&[(0, 3), (1, 3)][..], "hop"),
        (&[(0, 3), (1, 2)], "time"),
        (&[(0, 0), (1, 3)], "hop"),
        (&[(0, 0), (1, 4)], "done"),
    ] {
        assert_eq!(disposition(&attempt(&job(2), kinds, start())).0, want, "{kinds:?}");
    }
}

#[test]
fn what_was_not_tried_is_tried_at_once() {
    let settlement = attempt(&job(3), &[(0, 0), (1, 2)], start());
    assert_eq!(disposition(&settlement), ("time", Some(start())));
    let all_tried = attempt(&job(2), &[(0, 0), (1, 2)], start());
    assert!(disposition(&all_tried).1 > Some(start() + Duration::from_secs(50)));
}

#[test]
fn a_round_takes_each_recipient_once() {
    let (mut job, policy, mut now) = (job(5), Policy::default(), start());
    let mut tried = Vec::new();
    for _ in 0..3 {
        let due = due_recipients(&job, &policy, now, 2);
        for index in &due {
            job.recipients[*index as usize].last = Some(report(now, 450));
        }
        let kinds: Vec<_> = due.iter().map(|index| (*index, 2)).collect();
        let (_, until) = disposition(&attempt(&job, &kinds, now));
        let last = tried.len() + due.len() == 5;
        assert_eq!(until == Some(now), !last, "{tried:?}");
        tried.extend(due);
        job.attempts += 1;
        now = now + Duration::from_millis(10);
    }
    assert_eq!(tried, [0, 1, 2, 3, 4]);
    let next_round = now + HOUR;
    assert_eq!(due_recipients(&job, &policy, next_round, 9), [0, 1, 2, 3, 4]);
}

/// Transactions that delivered to some are no failures: the schedule stays where it was.
#[test]
fn only_fruitless_attempts_lengthen_the_intervals() {
    let mut job = job(2);
    job.attempts = 3;
    let made = |number, delivered| Attempt {
        number,
        at: start(),
        took_ms: 1,
        relay: None,
        tls: None,
        delivered,
        deferred: 1,
        bounced: 0,
        reply: report(start(), 450).reply,
    };
    job.history = vec![made(1, 5), made(2, 5), made(3, 0)];
    let (_, until) = disposition(&attempt(&job, &[(0, 2), (1, 2)], start()));
    let waits = until.unwrap().since(start());
    assert!(waits >= Duration::from_secs(270) && waits <= Duration::from_secs(330), "{waits:?}");
}

#[test]
fn deadlines() {
    let rng = &mut SmallRng::seed_from_u64(1);
    let (settler, policy, job) = (settler(), Policy::default(), job(1));
    let mut at = |hours: u32| {
        let plan = settler.deadline(&job, &policy, start() + HOUR * hours, rng);
        let kinds = plan.original_needed(&job).is_some();
        let mut rng = SmallRng::seed_from_u64(1);
        let settlement = plan.settlement(&settler, &job, &Original::NONE, &mut rng);
        let kind = settlement.follow_ups.first().map(|told| told.kind);
        assert_eq!(kinds, kind.is_some());
        assert_eq!(settlement.attempt, None);
        (disposition(&settlement).0, kind)
    };
    assert_eq!(at(1), ("hop", None));
    assert_eq!(at(4), ("hop", Some(FollowUpKind::DelayedDsn)));
    assert_eq!(at(120), ("done", Some(FollowUpKind::FailedDsn)));
}

#[test]
fn a_next_hop_may_be_worth_less_time() {
    let rng = &mut SmallRng::seed_from_u64(1);
    let (settler, job) = (settler(), job(1));
    let mut at = |hours: u32, expire_hours: u64| {
        let expire_seconds = expire_hours * HOUR.as_secs();
        let policy = Policy { expire_seconds, ..Policy::default() };
        let plan = settler.deadline(&job, &policy, start() + HOUR * hours, rng);
        let mut rng = SmallRng::seed_from_u64(1);
        let settlement = plan.settlement(&settler, &job, &Original::NONE, &mut rng);
        let told = settlement.follow_ups.first().map(|told| {
            let body = String::from_utf8(told.body.to_vec()).unwrap();
            (told.kind, body.lines().find(|l| l.starts_with("Will-Retry")).map(str::to_owned))
        });
        (disposition(&settlement).0, told)
    };
    let until = "Will-Retry-Until: Mon, 23 Nov 2026 05:08:15 +0000".to_owned();
    assert_eq!(at(4, 6), ("hop", Some((FollowUpKind::DelayedDsn, Some(until)))));
    assert_eq!(at(6, 6), ("done", Some((FollowUpKind::FailedDsn, None))));
    // No longer than its sender was told when it came.
    assert_eq!(at(120, 240), ("done", Some((FollowUpKind::FailedDsn, None))));
}

#[test]
fn a_sender_that_does_not_exist_is_a_double_bounce() {
    let mut job = job(1);
    let envelope = Arc::make_mut(&mut job.envelope);
    envelope.reverse_path = ReversePath::parse("nobody@here.example").unwrap();
    let plan = settler().cancellation(&job, start());
    assert_eq!((plan.double_bounces(), plan.original_needed(&job)), (&[0][..], None));
}

fn any_notify() -> impl Strategy<Value = Option<Notify>> {
    let on = (any::<bool>(), any::<bool>(), any::<bool>());
    let on = on.prop_map(|(success, failure, delay)| Notify::On { success, failure, delay });
    prop_oneof![Just(None), Just(Some(Notify::Never)), on.prop_map(Some)]
}

/// Whether a recipient is settled already, NOTIFY, the verdict (5: none).
type AnyRecipient = (bool, Option<Notify>, u8);

proptest! {
    #[test]
    fn nobody_is_forgotten_and_nobody_told_wrongly(
        recipients in prop::collection::vec((any::<bool>(), any_notify(), 0u8..6), 1..8),
        null_sender in any::<bool>(),
        delay_reported in any::<bool>(),
        age_hours in 0u32..130,
        attempts in 0u32..12,
    ) {
        let recipients: Vec<AnyRecipient> = recipients;
        let now = start() + HOUR * age_hours;
        let mut job = job(recipients.len());
        job.attempts = attempts;
        job.delay_reported = delay_reported;
        if null_sender {
            Arc::make_mut(&mut job.envelope).reverse_path = ReversePath::Null;
        }
        let mut kinds = Vec::new();
        for (index, (settled, notify, kind)) in (0u32..).zip(&recipients) {
            let state = &mut job.recipients[index as usize];
            state.recipient.notify = *notify;
            if *settled {
                state.status = RecipientStatus::Delivered;
            } else if *kind < 5 {
                kinds.push((index, *kind));
            }
        }
        prop_assume!(!kinds.is_empty());
        let settlement = attempt(&job, &kinds, now);

        let pending: BTreeSet<u32> = job.pending().map(|(index, _)| index).collect();
        let (mut finished, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for progress in &settlement.progress {
            for index in &progress.recipients {
                prop_assert!(pending.contains(index) && seen.insert(*index));
                if progress.status != RecipientStatus::Pending {
                    finished.insert(*index);
                }
            }
        }
        prop_assert_eq!(settlement.disposition == Disposition::Done, finished == pending);
        if let Disposition::Defer { until, wake_by, .. } = settlement.disposition {
            prop_assert!(until >= now && wake_by > now);
        }

        let told = |wanted: FollowUpKind| {
            let mut matching = settlement.follow_ups.iter().filter(|told| told.kind == wanted);
            let content = matching.next().map(|told| {
                [&told.head.header[..], &told.body[..]].concat()
            });
            content.map_or(0, |content| dsn::parse(&content).expect("a DSN").recipients.len())
        };
        let owed = |status: RecipientStatus, wants: fn(Notify) -> bool| {
            let progress = settlement.progress.iter().filter(|p| p.status == status);
            progress.flat_map(|p| &p.recipients).filter(|index| {
                wants(job.recipients[**index as usize].recipient.notify_or_default())
            }).count()
        };
        if null_sender {
            prop_assert!(settlement.follow_ups.is_empty(), "a null sender never gets a DSN");
        } else {
            let failed = owed(RecipientStatus::Bounced, Notify::failure);
            prop_assert_eq!(told(FollowUpKind::FailedDsn), failed);
            let asked = owed(RecipientStatus::Delivered, Notify::success);
            prop_assert!(told(FollowUpKind::SuccessDsn) <= asked);
            let delayed = told(FollowUpKind::DelayedDsn);
            prop_assert!(delayed == 0 || (age_hours >= 4 && !delay_reported));
        }
        let attempt = settlement.attempt.unwrap();
        prop_assert_eq!(attempt.number, attempts + 1);
        prop_assert_eq!((attempt.delivered + attempt.bounced) as usize, finished.len());
    }
}
