//! The simulated backend passes the suite that all backends pass.

#![allow(clippy::unwrap_used)] // helpers of tests: an error fails the test

use std::sync::Arc;

use async_trait::async_trait;
use mail_types::{
    BodyType, Envelope, Mailbox, Origin, QueueId, Recipient, ReversePath, TenantId, Timestamp,
};
use queue::conformance::{Fault, Harness, Settings, Step, Support, VirtualClock};
use queue::simulated::{Rates, SimulatedQueue};
use queue::{AcceptError, Admission, Head, HopKind, NewJob, NextHop, Queue, QueueError};

struct Simulated(SimulatedQueue);

#[async_trait]
impl Harness for Simulated {
    async fn open(seed: u64, settings: Settings, clock: VirtualClock) -> Self {
        Self(SimulatedQueue::new(seed, settings, clock.reader()))
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.0.clone())
    }

    async fn crash(&mut self) {
        self.0.crash();
    }

    fn fail_next(&mut self, step: Step, fault: Fault) -> Support {
        self.0.fail_next(step, fault);
        Support::Done
    }

    async fn damage(&mut self, message: QueueId) -> Support {
        if self.0.damage(message) { Support::Done } else { Support::Unsupported }
    }
}

queue::conformance_suite!(Simulated);

/// A simulation in which nothing happens proves nothing.
#[tokio::test]
async fn simulations_are_eventful() {
    for seed in 100..200 {
        let tally = queue::conformance::simulation::simulate::<Simulated>(seed, 500).await.unwrap();
        assert!(tally.committed > 50 && tally.done > 50, "seed {seed}: {tally:?}");
        assert!(tally.deferred > 5 && tally.crashes > 2, "seed {seed}: {tally:?}");
    }
}

const START: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

/// Commits a hundred messages under random faults; tells their ids and what became of each.
async fn outcomes(seed: u64) -> Vec<(QueueId, &'static str)> {
    let clock = VirtualClock::new(START);
    let queue = SimulatedQueue::new(seed, Settings::default(), clock.reader());
    queue.fail_randomly(Rates {
        unavailable_permille: 200,
        unknown_kept_permille: 200,
        unknown_lost_permille: 200,
    });
    let mut outcomes = Vec::new();
    for _ in 0..100 {
        let mut draft = queue.begin(envelope(), Admission::Outside).await.unwrap();
        let recipient = Recipient::new(Mailbox::parse("user@example.net").unwrap());
        let next_hop = NextHop::smtp(recipient.address.host());
        let jobs = vec![NewJob::new(next_hop, vec![recipient])];
        let outcome = match draft.commit(Head::default(), jobs).await {
            Ok(()) => "kept",
            Err(AcceptError::Unknown(_)) => "unknown",
            Err(_) => "refused",
        };
        outcomes.push((draft.id(), outcome));
    }
    outcomes
}

fn envelope() -> Envelope {
    Envelope {
        reverse_path: ReversePath::Null,
        envid: None,
        ret: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        arrival: START,
        expires: START,
        tenant: TenantId::new("acme"),
        identity: None,
        origin: Origin::Internal,
        trace_parent: None,
    }
}

#[tokio::test]
async fn a_seed_decides_ids_and_faults() {
    let first = outcomes(7).await;
    assert_eq!(first, outcomes(7).await);
    assert_ne!(first, outcomes(8).await);
    for outcome in ["kept", "unknown", "refused"] {
        assert!(first.iter().filter(|(_, told)| *told == outcome).count() > 5, "{outcome}");
    }
}

#[tokio::test]
async fn a_closed_queue_gives_no_leases() {
    let queue = SimulatedQueue::new(1, Settings::default(), || START);
    let (leases, ()) = tokio::join!(queue.lease(HopKind::Smtp, 1, 1), async { queue.close() });
    assert!(matches!(leases.map(|leases| leases.len()), Err(QueueError::Closed)));
}
