//! Leases: whose a job is, for how long, and whose turn it is.

use std::collections::HashMap;
use std::time::Duration;

use futures::FutureExt;

use super::mail::{Mail, defer, done, hop};
use super::trial::{Trial, soon};
use super::{Harness, Settings};
use crate::contract::SettleError;
use crate::model::{HopKind, Wait};

const LEASE: Duration = Duration::from_secs(900);

pub async fn a_leased_job_is_nobody_elses<H: Harness>() {
    let trial = Trial::<H>::new().await;
    trial.send(&Mail::to("a.example")).await;
    let lease = trial.lease().await;
    trial.nothing_due("the job is leased").await;
    assert!(trial.queue().lease_more(&hop("a.example")).await.unwrap().is_none());
    assert_eq!(lease.job().phase, crate::Phase::Active);
}

pub async fn a_lease_lapses<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    let lapsed = trial.lease().await;
    trial.advance(LEASE - Duration::from_secs(1));
    trial.nothing_due("the lease lasts").await;
    trial.advance(Duration::from_secs(2));
    let lease = trial.lease().await;
    assert_eq!(lease.job().id.message, id);
    drop(lapsed);
    trial.nothing_due("a lapsed lease gives nothing back").await;
}

pub async fn an_extended_lease_lasts<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    let mut lease = trial.lease().await;
    for _ in 0..3 {
        trial.advance(LEASE - Duration::from_secs(1));
        lease.extend().await.unwrap();
    }
    trial.nothing_due("the lease was extended").await;
    lease.settle(&done()).await.unwrap();
    assert_eq!(trial.jobs(id).await, []);
}

pub async fn a_lapsed_lease_settles_nothing<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    let mut lapsed = trial.lease().await;
    trial.advance(2 * LEASE);
    let mut lease = trial.lease().await;
    let settlement = done().with_dsn("sender.example", trial.now());
    assert!(matches!(lapsed.settle(&settlement).await, Err(SettleError::LeaseLost)));
    assert!(matches!(lapsed.extend().await, Err(SettleError::LeaseLost)));
    trial.nothing_due("no follow-up of a lapsed lease").await;
    lease.settle(&done()).await.unwrap();
    assert_eq!(trial.jobs(id).await, []);
}

pub async fn a_released_or_dropped_lease_is_due_at_once<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    trial.lease().await.release().await;
    let lease = trial.lease().await;
    assert_eq!((lease.job().id.message, lease.job().attempts), (id, 0));
    drop(lease);
    assert_eq!(trial.lease().await.job().id.message, id);
}

pub async fn a_job_that_makes_its_worker_panic_waits_for_the_end_of_its_lease<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    let lease = trial.lease().await;
    let mut worker = tokio::task::JoinSet::new();
    worker.spawn(async move {
        let _lease = lease;
        // As `panic!`, without a word in the output of a run that is all right.
        std::panic::resume_unwind(Box::new("a fault of the worker, as the test wants it"));
    });
    assert!(worker.join_next().await.unwrap().is_err());
    trial.nothing_due("it would make the next worker panic at once").await;
    trial.advance(LEASE + Duration::from_secs(1));
    assert_eq!(trial.lease().await.job().id.message, id);
}

pub async fn a_waiting_lease_gets_what_is_committed<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let queue = trial.queue();
    let mut waiting = queue.lease(HopKind::Smtp, 1, 1);
    assert!((&mut waiting).now_or_never().is_none(), "it waits until there is one");
    let id = trial.send(&Mail::to("a.example")).await;
    let leases = soon(waiting).await.unwrap();
    assert_eq!(leases[0].job().id.message, id);
}

pub async fn a_waiting_lease_gets_what_comes_due<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example")).await;
    let until = trial.now() + Duration::from_millis(300);
    trial.settle_next(id, &defer(until, Wait::Time)).await;
    let queue = trial.queue();
    let mut waiting = queue.lease(HopKind::Smtp, 1, 1);
    assert!((&mut waiting).now_or_never().is_none(), "it waits until one is due");
    trial.advance(Duration::from_secs(1));
    assert_eq!(soon(waiting).await.unwrap()[0].job().id.message, id);
}

pub async fn a_dropped_wait_takes_nothing<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let queue = trial.queue();
    for _ in 0..20 {
        let mut waiting = queue.lease(HopKind::Smtp, 1, 1);
        assert!((&mut waiting).now_or_never().is_none(), "it waits until there is one");
        let id = trial.send(&Mail::to("a.example")).await;
        drop(waiting);
        trial.settle_next(id, &done()).await;
    }
}

pub async fn kinds_are_apart<H: Harness>() {
    let trial = Trial::<H>::new().await;
    let id = trial.send(&Mail::to("a.example").hosted()).await;
    trial.nothing_due("a mailbox store's job is not the delivery worker's").await;
    let leases = soon(trial.queue().lease(HopKind::Mailbox, 5, 5)).await.unwrap();
    assert_eq!(leases[0].job().id.message, id);
    assert_eq!(leases[0].job().next_hop.kind(), HopKind::Mailbox);
}

pub async fn per_hop_bounds_a_next_hop<H: Harness>() {
    let trial = Trial::<H>::new().await;
    for _ in 0..5 {
        trial.send(&Mail::to("a.example")).await;
    }
    trial.send(&Mail::to("b.example")).await;
    let mut leases = trial.lease_all(2).await;
    assert_eq!(leases.len(), 3, "two of one next hop, one of the other");
    let first = leases.iter().position(|lease| lease.job().next_hop == hop("a.example"));
    leases.remove(first.unwrap()).settle(&done()).await.unwrap();
    assert_eq!(trial.lease_all(2).await.len(), 1, "there is room for one");
    assert_eq!(trial.lease_all(4).await.len(), 3, "another caller allows more");
}

pub async fn next_hops_take_turns<H: Harness>() {
    let trial = Trial::<H>::new().await;
    for _ in 0..20 {
        trial.send(&Mail::to("flood.example")).await;
    }
    for domain in ["a.example", "b.example", "c.example"] {
        trial.send(&Mail::to(domain)).await;
    }
    let mut hops = HashMap::new();
    for lease in trial.leases(8, usize::MAX).await {
        *hops.entry(lease.job().next_hop.key().to_owned()).or_insert(0) += 1;
    }
    for domain in ["a.example", "b.example", "c.example"] {
        assert_eq!(hops.get(domain), Some(&1), "{domain} has its turn: {hops:?}");
    }
}

pub async fn tenants_take_turns<H: Harness>() {
    let trial = Trial::<H>::new().await;
    for _ in 0..20 {
        trial.send(&Mail::to("a.example").of("flood")).await;
    }
    for tenant in ["acme", "globex"] {
        trial.send(&Mail::to("a.example").of(tenant)).await;
    }
    let leases = trial.leases(6, usize::MAX).await;
    for tenant in ["acme", "globex"] {
        let mut tenants = leases.iter().map(|lease| &lease.job().envelope.tenant);
        assert!(tenants.any(|served| served.as_str() == tenant), "{tenant} has its turn");
    }
}

pub async fn a_connection_takes_more_until_others_wait<H: Harness>() {
    let trial = Trial::<H>::with(Settings { lease_time: LEASE, ..Settings::default() }).await;
    let flood = hop("flood.example");
    for _ in 0..100 {
        trial.send(&Mail::to("flood.example")).await;
    }
    let queue = trial.queue();
    let mut lease = trial.lease().await;
    for _ in 0..60 {
        lease.settle(&done()).await.unwrap();
        lease = queue.lease_more(&flood).await.unwrap().expect("nobody else waits");
    }
    trial.send(&Mail::to("other.example")).await;
    let mut more = 0;
    while let Some(mut next) = queue.lease_more(&flood).await.unwrap() {
        next.settle(&done()).await.unwrap();
        more += 1;
        assert!(more < 39, "another next hop waits for its turn");
    }
    drop(lease);
    let served: Vec<_> = trial.leases(2, usize::MAX).await;
    assert!(served.iter().any(|lease| lease.job().next_hop == hop("other.example")));
}
