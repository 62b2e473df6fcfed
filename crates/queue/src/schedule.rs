//! Which job is next: the index in memory that backends share.
//!
//! ```text
//!                 turns of hops          turns of tenants       oldest message
//! lease ── kind ──▶ NextHop ── express ──▶ lane ──────────────▶ job
//!                     │ gate └─ due ─────▶ lane ──────────────▶ job ── payload of the backend
//!                     └─ waiting (Wait::Hop: due at once when the hop recovers)
//! ```
//!
//! The schedule stores nothing durably and reads no clock. A backend makes a change durable first
//! and then says it here; after a crash it inserts again what it finds. Every operation is
//! O(log n), but for [`Schedule::hop_up`] and what comes due meanwhile.
//!
//! A hop is *closed* from [`Schedule::hop_down`] to [`Schedule::hop_up`]. Jobs that come due
//! behind a closed gate wait in place, at no cost, and count as deferred.

mod census;
mod entry;
mod gates;
mod hop;
mod lanes;
mod leasing;
mod looking;
mod moving;
mod slab;
mod tenants;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mail_types::{TenantId, Timestamp};

pub use entry::{Back, Placement};
pub use tenants::Usage;

use crate::model::{JobId, LeaseReason, NextHop, Phase, Wait};
use entry::{Entry, JobKey, NEVER, State};
use hop::{Hops, Rotations};
use slab::Slab;
use tenants::Tenants;

/// All jobs of a queue. `T` is what the backend needs to find a job's records; small, and `Clone`.
pub struct Schedule<T> {
    lease_time: Duration,
    jobs: Slab<Entry<T>>,
    by_id: BTreeMap<JobKey, u32>,
    timers: BTreeSet<(i64, Timer)>,
    hops: Hops,
    tenants: Tenants,
    rotations: Rotations,
    next_token: u64,
    counts: Counts,
    gone: Vec<(JobId, T)>,
}

/// A job to be scheduled.
#[derive(Clone, Debug)]
pub struct NewEntry<T> {
    pub id: JobId,
    pub tenant: TenantId,
    pub next_hop: NextHop,
    /// Octets of the message's content.
    pub size: u64,
    pub placement: Placement,
    pub payload: T,
}

/// A job that was leased.
#[derive(Clone, Debug)]
pub struct Leased<T> {
    pub token: LeaseToken,
    pub reason: LeaseReason,
    pub payload: T,
}

/// The right to settle a job. Void once the lease lapsed, was settled or released.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseToken {
    id: JobId,
    number: u64,
}

impl LeaseToken {
    pub fn job(&self) -> JobId {
        self.id
    }
}

/// The token is void: somebody else may have the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease has lapsed")]
pub struct LeaseLost;

/// A job as the schedule knows it.
#[derive(Clone, Debug)]
pub struct View<T> {
    pub id: JobId,
    pub tenant: TenantId,
    pub next_hop: NextHop,
    pub size: u64,
    pub phase: Phase,
    /// `None` unless ready or deferred.
    pub next_attempt: Option<Timestamp>,
    pub payload: T,
}

/// A job at first sight: nothing of it is copied.
#[derive(Clone, Copy, Debug)]
pub struct Glance<'a> {
    pub id: JobId,
    pub tenant: &'a TenantId,
    pub next_hop: &'a NextHop,
    pub phase: Phase,
}

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub jobs: Vec<View<T>>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<JobId>,
}

/// How many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub messages: u64,
    pub content_bytes: u64,
    pub jobs: u64,
    pub ready: u64,
    pub active: u64,
    pub held: u64,
    pub quarantined: u64,
}

impl Counts {
    pub fn deferred(&self) -> u64 {
        self.jobs - self.ready - self.active - self.held - self.quarantined
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Job(u32),
    Hop(u32),
}

impl<T: Clone> Schedule<T> {
    /// `lease_time` is how long a lease lasts without [`Self::extend`].
    pub fn new(lease_time: Duration) -> Self {
        Self {
            lease_time,
            jobs: Slab::new(),
            by_id: BTreeMap::new(),
            timers: BTreeSet::new(),
            hops: Hops::new(),
            tenants: Tenants::new(),
            rotations: Rotations::new(),
            next_token: 0,
            counts: Counts::default(),
            gone: Vec::new(),
        }
    }

    /// Adds a job. Returns whether it is new; a job that is known stays as it is.
    pub fn insert(&mut self, new: NewEntry<T>, now: Timestamp) -> bool {
        let key = JobKey::from(new.id);
        if self.by_id.contains_key(&key) {
            return false;
        }
        let tenant = self.tenants.enter(&new.tenant);
        if !self.has_message(new.id.message) {
            let usage = &mut self.tenants[tenant].usage;
            usage.messages += 1;
            usage.bytes += new.size;
            self.counts.messages += 1;
            self.counts.content_bytes += new.size;
        }
        let hop = self.hops.intern(&new.next_hop);
        self.hops[hop].jobs += 1;
        let slot = self.jobs.insert(Entry {
            key,
            wait: Wait::Time,
            hop,
            tenant,
            size: new.size,
            next_attempt_ms: now.unix_ms(),
            wake_by_ms: NEVER,
            timer_ms: NEVER,
            state: State::Held,
            payload: new.payload,
        });
        self.by_id.insert(key, slot);
        self.counts.jobs += 1;
        self.count_unlisted(slot, 1);
        self.place(slot, new.placement, now);
        true
    }

    /// Ends a lease: the job goes on elsewhere.
    pub fn settle(
        &mut self,
        token: &LeaseToken,
        placement: Placement,
        payload: T,
        now: Timestamp,
    ) -> Result<(), LeaseLost> {
        let slot = self.held_by(token)?;
        self.jobs[slot].payload = payload;
        self.end_lease(slot);
        self.place(slot, placement, now);
        Ok(())
    }

    /// Ends a lease and forgets the job. Tells what the backend had kept of it.
    pub fn finish(&mut self, token: &LeaseToken) -> Result<T, LeaseLost> {
        let slot = self.held_by(token)?;
        self.end_lease(slot);
        Ok(self.forget(slot))
    }

    /// Puts a job that is not leased elsewhere. Returns whether there is such a job.
    pub fn replace(&mut self, id: JobId, placement: Placement, payload: T, now: Timestamp) -> bool {
        let Some(slot) = self.slot_unless_active(id) else { return false };
        self.jobs[slot].payload = payload;
        self.place(slot, placement, now);
        true
    }

    /// Forgets a job that is not leased.
    pub fn remove(&mut self, id: JobId) -> Option<T> {
        let slot = self.slot_unless_active(id)?;
        Some(self.forget(slot))
    }

    /// Says what becomes of a leased job when its lease ends unsettled. Returns whether there is
    /// such a job. A settlement overrides this: the backend minds the request in it.
    pub fn request(&mut self, id: JobId, back: Back, payload: T) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let entry = &mut self.jobs[slot];
        let State::Active(active) = &mut entry.state else { return false };
        active.back = back;
        entry.payload = payload;
        true
    }

    /// Gives a job another payload: its records have moved. Returns whether there is such a job.
    pub fn set_payload(&mut self, id: JobId, payload: T) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        self.jobs[slot].payload = payload;
        true
    }

    /// The jobs that were [`Back::Gone`] when their lease ended, since this was last asked.
    pub fn take_gone(&mut self) -> Vec<(JobId, T)> {
        std::mem::take(&mut self.gone)
    }
}

#[cfg(test)]
mod tests;
