//! Power cuts and failing operations at every moment: nothing that was promised is lost, nothing
//! that was refused comes back.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use mail_types::QueueId;
use queue::{AcceptError, Filter, Queue, SettleError};

use super::mail::{body, content, defer, done, lease_all, open, read, send, small_segments};
use crate::disk::{Fault, Leaves, SimDisk, Syncs};
use crate::{Config, LogQueue};
use futures::TryStreamExt;

/// What must be true of a message after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Queued,
    Gone,
    /// Nobody was told.
    Open,
}

#[derive(Default)]
struct Account {
    fates: HashMap<QueueId, (Fate, Bytes)>,
}

fn config() -> Config {
    // Several segments, files of content and moves in a short run.
    Config { inline_body_bytes: 4 << 10, segment_bytes: 68 << 10, ..small_segments() }
}

impl Account {
    fn sent(&mut self, id: QueueId, body: &Bytes, result: &Result<(), AcceptError>) {
        let fate = match result {
            Ok(()) => Fate::Queued,
            Err(AcceptError::Unknown(_)) => Fate::Open,
            Err(_) => Fate::Gone,
        };
        self.fates.insert(id, (fate, body.clone()));
    }

    fn settled(&mut self, id: QueueId, fate: Fate, result: &Result<(), SettleError>) {
        let Some((now, _)) = self.fates.get_mut(&id) else { return };
        match result {
            Ok(()) => *now = fate,
            // What a deferral leaves is queued whatever became of it.
            Err(SettleError::Unknown(_)) if fate == Fate::Gone => *now = Fate::Open,
            Err(_) => {}
        }
    }

    /// What is wrong with the queue after a crash.
    async fn audit(&self, queue: &LogQueue) -> Result<(), String> {
        let jobs = queue.list(Filter::default()).try_collect::<Vec<_>>().await;
        let jobs: Vec<QueueId> = jobs.unwrap().iter().map(|job| job.id.message).collect();
        for (id, (fate, _)) in &self.fates {
            match (fate, jobs.contains(id)) {
                (Fate::Queued, false) => return Err(format!("{id} is lost")),
                (Fate::Gone, true) => return Err(format!("{id} came back")),
                (Fate::Queued, true) | (Fate::Gone, false) | (Fate::Open, _) => {}
            }
        }
        for lease in lease_all(queue).await {
            let id = lease.job().id.message;
            let (_, body) = self.fates.get(&id).ok_or_else(|| format!("{id} was never sent"))?;
            match read(&*lease).await {
                Ok(octets) if octets == content(body) => {}
                Ok(_) => return Err(format!("{id} has other content")),
                Err(error) => return Err(format!("{id}: {error}")),
            }
        }
        Ok(())
    }
}

/// Sends, delivers and defers until everything is done or the disk is off.
async fn work(queue: &LogQueue, account: &mut Account, rounds: usize) {
    for round in 0..rounds {
        let sizes = [100, 900, 3000, 9000];
        let bodies: Vec<Bytes> =
            (0..4).map(|n| body(round * 4 + n, sizes[(round + n) % 4])).collect();
        let sends = bodies.iter().map(|body| send(queue, body.clone()));
        let sent = futures::future::join_all(sends).await;
        for (body, (id, result)) in bodies.iter().zip(&sent) {
            account.sent(*id, body, result);
        }
        if sent.iter().all(|(_, result)| result.is_err()) && round > 3 {
            return;
        }
        if queue.stats().await.unwrap().ready == 0 {
            continue;
        }
        let leases = queue.lease(queue::HopKind::Smtp, 3, usize::MAX);
        let soon = std::time::Duration::from_millis(1);
        // A queue that cannot record outcomes leases nothing.
        let Ok(Ok(leases)) = tokio::time::timeout(soon, leases).await else { continue };
        for (n, mut lease) in leases.into_iter().enumerate() {
            let id = lease.job().id.message;
            let last = n == 0 && round % 5 != 0;
            let (settlement, fate) =
                if last { (defer(), Fate::Queued) } else { (done(), Fate::Gone) };
            let result = lease.settle(&settlement).await;
            account.settled(id, fate, &result);
        }
    }
}

/// Works until the power is cut at an operation; then looks at what is left.
async fn cut_at(seed: u64, operation: u64, syncs: Syncs) -> Result<(), String> {
    let disk = SimDisk::new(seed, syncs);
    let queue = open(&disk, &config());
    let mut account = Account::default();
    disk.power_off_at(operation);
    work(&queue, &mut account, 12).await;
    let after = disk.cut();
    drop(queue);
    let queue = open(&after, &config());
    account.audit(&queue).await?;
    // And once more: what recovery wrote is right too.
    work(&queue, &mut account, 2).await;
    let again = after.cut();
    drop(queue);
    account.audit(&open(&again, &config())).await
}

#[tokio::test]
async fn a_power_cut_loses_nothing() {
    let seeds = if std::env::var_os("POSTRIDER_LONG").is_some() { 5000 } else { 300 };
    for seed in 1..=seeds {
        let operation = 5 + seed * 7919 % 140;
        if let Err(wrong) = cut_at(seed, operation, Syncs::Honest).await {
            panic!("seed {seed}, power off at operation {operation}: {wrong}");
        }
    }
}

#[tokio::test]
async fn the_checker_finds_syncs_that_are_skipped() {
    for seed in 1..=50 {
        if cut_at(seed, 5 + seed * 7919 % 140, Syncs::Skipped).await.is_err() {
            return;
        }
    }
    panic!("a disk that syncs nothing passed for a good one");
}

/// Fails one operation of a run, then cuts the power at its end.
async fn fail_at(operation: u64, kind: io::ErrorKind) -> Result<u64, String> {
    let disk = SimDisk::new(operation, Syncs::Honest);
    let queue = open(&disk, &config());
    let mut account = Account::default();
    let fault = Fault { after: operation, on: None, kind, leaves: Leaves::Some };
    disk.fail(fault);
    work(&queue, &mut account, 8).await;
    let operations = disk.operations();
    let after = disk.cut();
    drop(queue);
    account.audit(&open(&after, &config())).await?;
    Ok(operations)
}

#[tokio::test]
async fn any_operation_may_fail() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let operations = fail_at(u64::MAX, kind).await.unwrap();
        assert!(operations > 60, "{operations} operations prove little");
        for operation in 0..operations {
            if let Err(wrong) = fail_at(operation, kind).await {
                panic!("{kind} at operation {operation}: {wrong}");
            }
        }
    }
}
