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

mod entry;
mod hop;
mod lanes;
mod slab;
mod tenants;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use mail_types::{QueueId, TenantId, Timestamp};

pub use entry::{Back, Placement};
pub use tenants::Usage;

use crate::model::{HopKind, JobId, LeaseReason, NextHop, Phase, Wait};
use entry::{Active, Entry, Holder, JobKey, NEVER, State, Why};
use hop::{Gate, Hops, Rotation, Turn};
use slab::Slab;
use tenants::Tenants;

/// Jobs that a connection may take out of turn while another next hop waits for its own.
const RUN: usize = 16;

/// All jobs of a queue. `T` is what the backend needs to find a job's records; small, and `Clone`.
pub struct Schedule<T> {
    lease_time: Duration,
    jobs: Slab<Entry<T>>,
    by_id: BTreeMap<JobKey, u32>,
    timers: BTreeSet<(i64, Timer)>,
    hops: Hops,
    tenants: Tenants,
    smtp: Rotation,
    mailbox: Rotation,
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

// Putting jobs in, and what the backend makes durable.
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
            smtp: Rotation::new(),
            mailbox: Rotation::new(),
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
        self.counts.held += 1;
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

// Leasing.
impl<T: Clone> Schedule<T> {
    /// As [`crate::Queue::lease`], but at once and perhaps with none.
    pub fn lease(
        &mut self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
        now: Timestamp,
    ) -> Vec<Leased<T>> {
        self.advance(now);
        let mut leased = Vec::new();
        while leased.len() < max {
            let rotation = match kind {
                HopKind::Smtp => &mut self.smtp,
                HopKind::Mailbox => &mut self.mailbox,
            };
            let Some(hop) = rotation.next(&mut self.hops, per_hop, now.unix_ms()) else { break };
            self.hops[hop].run = 0;
            leased.extend(self.lease_from(hop, now));
        }
        leased
    }

    /// As [`crate::Queue::lease_more`]: a run of 16 jobs ends when another next hop waits.
    pub fn lease_more(&mut self, hop: &NextHop, now: Timestamp) -> Option<Leased<T>> {
        self.advance(now);
        let hop = self.hops.find(hop)?;
        if self.hops[hop].run >= RUN {
            let rotation = match self.hops[hop].name.kind() {
                HopKind::Smtp => &mut self.smtp,
                HopKind::Mailbox => &mut self.mailbox,
            };
            if rotation.others_wait(&mut self.hops, hop, now.unix_ms()) {
                return None;
            }
        }
        let leased = self.lease_from(hop, now)?;
        self.hops[hop].run += 1;
        Some(leased)
    }

    /// Another full lease time from now.
    pub fn extend(&mut self, token: &LeaseToken, now: Timestamp) -> Result<(), LeaseLost> {
        self.advance(now);
        let slot = self.held_by(token)?;
        let deadline_ms = (now + self.lease_time).unix_ms();
        if let State::Active(active) = &mut self.jobs[slot].state
            && active.deadline_ms != NEVER
        {
            // The timer fires too early and is then set again: extending is frequent.
            active.deadline_ms = deadline_ms;
        }
        Ok(())
    }

    /// Keeps a lease from lapsing while its outcome is being made durable: until
    /// [`Self::settle`], [`Self::finish`] or [`Self::unpin`].
    pub fn pin(&mut self, token: &LeaseToken, now: Timestamp) -> Result<(), LeaseLost> {
        self.advance(now);
        let slot = self.held_by(token)?;
        self.set_deadline(slot, NEVER);
        Ok(())
    }

    /// The outcome was not recorded: another full lease time from now, or given back if the holder
    /// released it meanwhile.
    pub fn unpin(&mut self, token: &LeaseToken, now: Timestamp) {
        let Ok(slot) = self.held_by(token) else { return };
        let State::Active(active) = self.jobs[slot].state else { return };
        match active.holder {
            Holder::Present => self.set_deadline(slot, (now + self.lease_time).unix_ms()),
            Holder::Left => self.give_back(slot, now),
        }
    }

    /// Gives a job back as it was, due at once. While pinned, this waits for the outcome.
    pub fn release(&mut self, token: &LeaseToken, now: Timestamp) {
        let Ok(slot) = self.held_by(token) else { return };
        if let State::Active(active) = &mut self.jobs[slot].state
            && active.deadline_ms == NEVER
        {
            active.holder = Holder::Left;
            return;
        }
        self.give_back(slot, now);
    }

    /// Closes the gate of a next hop; see [`crate::Queue::hop_down`].
    pub fn hop_down(&mut self, hop: &NextHop, until: Timestamp, now: Timestamp) {
        self.advance(now);
        let index = self.hops.intern(hop);
        self.open_gate(index);
        let hop = &mut self.hops[index];
        hop.gate = Gate::Closed(until.unix_ms());
        self.counts.ready -= hop.due.len() as u64;
        self.timers.insert((until.unix_ms(), Timer::Hop(index)));
    }

    /// Opens the gate of a next hop; see [`crate::Queue::hop_up`].
    pub fn hop_up(&mut self, hop: &NextHop, now: Timestamp) {
        let Some(index) = self.hops.find(hop) else { return };
        self.open_gate(index);
        let waiting = std::mem::take(&mut self.hops[index].waiting);
        for (_, slot) in waiting {
            let entry = &mut self.jobs[slot];
            entry.next_attempt_ms = now.unix_ms();
            entry.state = State::Due;
            let (tenant, arrival, wake_by) = (entry.tenant, entry.arrival_ms(), entry.wake_by_ms);
            self.hops[index].due.insert(tenant, arrival, slot);
            self.counts.ready += 1;
            self.set_timer(slot, wake_by);
        }
        self.wake(index);
        self.advance(now);
    }

    /// When to look again: the next time at which anything may change by itself.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.timers.first().map(|&(at, _)| Timestamp::from_unix_ms(at))
    }

    /// Does what is due: jobs come due, leases lapse, hops may be probed. Called by the operations
    /// that depend on it.
    pub fn advance(&mut self, now: Timestamp) {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now.unix_ms()
        {
            self.timers.pop_first();
            match timer {
                Timer::Job(slot) => {
                    self.jobs[slot].timer_ms = NEVER;
                    self.job_timer(slot, now);
                }
                Timer::Hop(index) => self.wake(index),
            }
        }
    }
}

// Looking.
impl<T: Clone> Schedule<T> {
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Arrival of the oldest message that has a job ready. O(next hops x tenants).
    pub fn oldest_ready(&self) -> Option<Timestamp> {
        let oldest = |hop: &hop::Hop| {
            let due = if hop.gate == Gate::Open { hop.due.oldest() } else { None };
            due.into_iter().chain(hop.express.oldest()).min()
        };
        self.hops.iter().filter_map(oldest).min().map(Timestamp::from_unix_ms)
    }

    pub fn usage(&self, tenant: &TenantId) -> Usage {
        self.tenants.usage(tenant)
    }

    /// What each tenant has in the queue, in no order.
    pub fn usages(&self) -> impl Iterator<Item = (&TenantId, Usage)> {
        self.tenants.iter()
    }

    pub fn get(&self, id: JobId) -> Option<View<T>> {
        self.slot(id).map(|slot| self.view(slot))
    }

    /// What the backend keeps of a job: [`Self::get`] without its copies.
    pub fn payload(&self, id: JobId) -> Option<&T> {
        self.slot(id).map(|slot| &self.jobs[slot].payload)
    }

    /// Where a job would be inserted again: a leased one where it goes when its lease lapses.
    /// `None` when there is no such job, or it ends with its lease.
    pub fn placement(&self, id: JobId) -> Option<Placement> {
        let entry = &self.jobs[self.slot(id)?];
        let wake_by = Timestamp::from_unix_ms(entry.wake_by_ms);
        let until = Timestamp::from_unix_ms(entry.next_attempt_ms);
        match entry.state {
            State::Waiting => Some(Placement::Deferred { until, wake_by, wait: entry.wait }),
            State::Due | State::Express(Why::Deadline) => Some(Placement::Ready { wake_by }),
            State::Express(Why::RetryNow) => Some(Placement::Urgent { wake_by }),
            State::Express(Why::Cancelled) => Some(Placement::Cancelled),
            State::Held => Some(Placement::Held),
            State::Quarantined => Some(Placement::Quarantined),
            State::Active(active) => match active.back {
                Back::Due => Some(Placement::Ready { wake_by }),
                Back::Held => Some(Placement::Held),
                Back::Cancelled => Some(Placement::Cancelled),
                Back::Gone => None,
            },
        }
    }

    pub fn has_message(&self, message: QueueId) -> bool {
        self.slots_of(message).next().is_some()
    }

    pub fn of_message(&self, message: QueueId) -> Vec<View<T>> {
        self.slots_of(message).map(|slot| self.view(slot)).collect()
    }

    /// Up to `limit` jobs in order of arrival, from `from` on; short, so that a lock around the
    /// schedule is held for a short time.
    pub fn page(&self, from: Option<JobId>, limit: usize) -> Page<T> {
        let from = from.map_or(Bound::Unbounded, |id| Bound::Included(JobKey::from(id)));
        let mut rest = self.by_id.range((from, Bound::Unbounded));
        let jobs = rest.by_ref().take(limit).map(|(_, &slot)| self.view(slot)).collect();
        Page { jobs, next: rest.next().map(|(&key, _)| key.into()) }
    }

    fn view(&self, slot: u32) -> View<T> {
        let entry = &self.jobs[slot];
        let hop = &self.hops[entry.hop];
        let (phase, next_attempt_ms) = match entry.state {
            State::Due if hop.gate == Gate::Open => (Phase::Ready, Some(entry.next_attempt_ms)),
            State::Express(_) => (Phase::Ready, Some(entry.next_attempt_ms)),
            State::Due | State::Waiting => (Phase::Deferred, Some(entry.next_attempt_ms)),
            State::Active(_) => (Phase::Active, None),
            State::Held => (Phase::Held, None),
            State::Quarantined => (Phase::Quarantined, None),
        };
        View {
            id: entry.key.into(),
            tenant: (*self.tenants[entry.tenant].name).clone(),
            next_hop: (*hop.name).clone(),
            size: entry.size,
            phase,
            next_attempt: next_attempt_ms.map(Timestamp::from_unix_ms),
            payload: entry.payload.clone(),
        }
    }

    fn slot(&self, id: JobId) -> Option<u32> {
        self.by_id.get(&JobKey::from(id)).copied()
    }

    fn slot_unless_active(&self, id: JobId) -> Option<u32> {
        self.slot(id).filter(|&slot| !matches!(self.jobs[slot].state, State::Active(_)))
    }

    fn slots_of(&self, message: QueueId) -> impl Iterator<Item = u32> {
        let first = JobKey::from(JobId { message, index: 0 });
        let last = JobKey::from(JobId { message, index: u16::MAX });
        self.by_id.range(first..=last).map(|(_, &slot)| slot)
    }
}

// How jobs move. A job is in the lists of its state, has at most one timer, and is counted once.
impl<T: Clone> Schedule<T> {
    fn place(&mut self, slot: u32, placement: Placement, now: Timestamp) {
        self.unlist(slot);
        let now_ms = now.unix_ms();
        let entry = &mut self.jobs[slot];
        entry.wait = Wait::Time;
        entry.next_attempt_ms = now_ms;
        entry.wake_by_ms = NEVER;
        let state = match placement {
            Placement::Ready { wake_by } => {
                entry.wake_by_ms = wake_by.unix_ms();
                State::Due
            }
            Placement::Deferred { until, wake_by, wait } => {
                entry.wake_by_ms = wake_by.unix_ms();
                entry.next_attempt_ms = until.unix_ms();
                entry.wait = wait;
                if until <= now { State::Due } else { State::Waiting }
            }
            Placement::Urgent { wake_by } => {
                entry.wake_by_ms = wake_by.unix_ms();
                State::Express(Why::RetryNow)
            }
            Placement::Cancelled => State::Express(Why::Cancelled),
            Placement::Held => State::Held,
            Placement::Quarantined => State::Quarantined,
        };
        self.enlist(slot, state, now_ms);
    }

    /// Puts a job that is in no list where `state` says, or ahead if its `wake_by` has passed.
    fn enlist(&mut self, slot: u32, state: State, now_ms: i64) {
        let entry = &mut self.jobs[slot];
        let (hop, wake_by) = (entry.hop, entry.wake_by_ms);
        let waits = matches!(state, State::Due | State::Waiting);
        entry.state =
            if waits && wake_by <= now_ms { State::Express(Why::Deadline) } else { state };
        let (tenant, arrival, next_attempt) =
            (entry.tenant, entry.arrival_ms(), entry.next_attempt_ms);
        match entry.state {
            State::Waiting => {
                let waits_for_hop = entry.wait == Wait::Hop;
                self.set_timer(slot, next_attempt.min(wake_by));
                if waits_for_hop {
                    self.hops[hop].waiting.insert((next_attempt, slot));
                    // It may be the one to probe with.
                    self.wake(hop);
                }
            }
            State::Due => {
                self.hops[hop].due.insert(tenant, arrival, slot);
                self.counts.ready += u64::from(self.hops[hop].gate == Gate::Open);
                self.set_timer(slot, wake_by);
                self.wake(hop);
            }
            State::Express(_) => {
                self.hops[hop].express.insert(tenant, arrival, slot);
                self.counts.ready += 1;
                self.wake(hop);
            }
            State::Active(active) => {
                self.counts.active += 1;
                self.set_timer(slot, active.deadline_ms);
            }
            State::Held => self.counts.held += 1,
            State::Quarantined => self.counts.quarantined += 1,
        }
    }

    /// Takes a job out of the lists and the count of its state.
    fn unlist(&mut self, slot: u32) {
        self.set_timer(slot, NEVER);
        let entry = &self.jobs[slot];
        let hop = &mut self.hops[entry.hop];
        match entry.state {
            State::Waiting => {
                hop.waiting.remove(&(entry.next_attempt_ms, slot));
            }
            State::Due => {
                hop.due.remove(entry.tenant, entry.arrival_ms(), slot);
                self.counts.ready -= u64::from(hop.gate == Gate::Open);
            }
            State::Express(_) => {
                hop.express.remove(entry.tenant, entry.arrival_ms(), slot);
                self.counts.ready -= 1;
            }
            State::Active(_) => self.counts.active -= 1,
            State::Held => self.counts.held -= 1,
            State::Quarantined => self.counts.quarantined -= 1,
        }
    }

    fn forget(&mut self, slot: u32) -> T {
        self.unlist(slot);
        let entry = self.jobs.remove(slot);
        self.by_id.remove(&entry.key);
        self.counts.jobs -= 1;
        if !self.has_message(JobId::from(entry.key).message) {
            let usage = &mut self.tenants[entry.tenant].usage;
            usage.messages -= 1;
            usage.bytes -= entry.size;
            self.counts.messages -= 1;
            self.counts.content_bytes -= entry.size;
        }
        self.tenants.leave(entry.tenant);
        self.hops[entry.hop].jobs -= 1;
        self.close_if_unused(entry.hop);
        entry.payload
    }

    fn set_timer(&mut self, slot: u32, at_ms: i64) {
        let timer_ms = &mut self.jobs[slot].timer_ms;
        if *timer_ms == at_ms {
            return;
        }
        if *timer_ms != NEVER {
            self.timers.remove(&(*timer_ms, Timer::Job(slot)));
        }
        *timer_ms = at_ms;
        if at_ms != NEVER {
            self.timers.insert((at_ms, Timer::Job(slot)));
        }
    }

    fn job_timer(&mut self, slot: u32, now: Timestamp) {
        match self.jobs[slot].state {
            State::Waiting | State::Due => {
                self.unlist(slot);
                self.enlist(slot, State::Due, now.unix_ms());
            }
            State::Active(active) if active.deadline_ms <= now.unix_ms() => {
                self.give_back(slot, now);
            }
            State::Active(active) => self.set_timer(slot, active.deadline_ms),
            State::Express(_) | State::Held | State::Quarantined => {}
        }
    }
}

// Leases and gates in detail.
impl<T: Clone> Schedule<T> {
    fn lease_from(&mut self, hop: u32, now: Timestamp) -> Option<Leased<T>> {
        let (slot, reason) = self.pick(hop, now.unix_ms())?;
        self.unlist(slot);
        self.next_token += 1;
        let back = match reason {
            LeaseReason::Cancelled => Back::Cancelled,
            LeaseReason::Due | LeaseReason::Probe | LeaseReason::Deadline => Back::Due,
        };
        let active = Active {
            token: self.next_token,
            deadline_ms: (now + self.lease_time).unix_ms(),
            back,
            holder: Holder::Present,
        };
        self.enlist(slot, State::Active(active), now.unix_ms());
        self.hops[hop].leased += 1;
        if reason == LeaseReason::Probe {
            self.hops[hop].probe = Some(slot);
        }
        let entry = &self.jobs[slot];
        let token = LeaseToken { id: entry.key.into(), number: active.token };
        Some(Leased { token, reason, payload: entry.payload.clone() })
    }

    /// The job of a hop that is next, and why it may be leased.
    fn pick(&mut self, index: u32, now_ms: i64) -> Option<(u32, LeaseReason)> {
        let hop = &mut self.hops[index];
        let cost = |slot: u32| self.jobs[slot].cost();
        if hop.gate == Gate::Open {
            let express_turn = hop.express_had_turn == Turn::Due || hop.due.len() == 0;
            if hop.express.len() == 0 || !express_turn {
                hop.express_had_turn = Turn::Due;
                return hop.due.next(cost).map(|slot| (slot, LeaseReason::Due));
            }
        }
        if let Some(slot) = hop.express.next(cost) {
            hop.express_had_turn = Turn::Express;
            let reason = match self.jobs[slot].state {
                State::Express(Why::Cancelled) => LeaseReason::Cancelled,
                State::Express(Why::Deadline) if hop.gate != Gate::Open => LeaseReason::Deadline,
                State::Express(_)
                | State::Waiting
                | State::Due
                | State::Active(_)
                | State::Held
                | State::Quarantined => LeaseReason::Due,
            };
            return Some((slot, reason));
        }
        if !hop.may_probe(now_ms) {
            return None;
        }
        let due = hop.due.next(cost);
        let slot = due.or_else(|| hop.waiting.first().map(|&(_, slot)| slot))?;
        Some((slot, LeaseReason::Probe))
    }

    fn held_by(&self, token: &LeaseToken) -> Result<u32, LeaseLost> {
        let slot = self.slot(token.id).ok_or(LeaseLost)?;
        let State::Active(active) = self.jobs[slot].state else { return Err(LeaseLost) };
        if active.token == token.number { Ok(slot) } else { Err(LeaseLost) }
    }

    fn set_deadline(&mut self, slot: u32, deadline: i64) {
        if let State::Active(active) = &mut self.jobs[slot].state {
            active.deadline_ms = deadline;
            self.set_timer(slot, deadline);
        }
    }

    /// Makes a leased job one that is held, in name only: the caller places or forgets it.
    fn end_lease(&mut self, slot: u32) {
        self.unlist(slot);
        let entry = &mut self.jobs[slot];
        entry.state = State::Held;
        self.counts.held += 1;
        let index = entry.hop;
        let hop = &mut self.hops[index];
        hop.leased -= 1;
        if hop.probe == Some(slot) {
            hop.probe = None;
        }
        let rotation = match hop.name.kind() {
            HopKind::Smtp => &mut self.smtp,
            HopKind::Mailbox => &mut self.mailbox,
        };
        rotation.lease_ended(&mut self.hops, index);
    }

    fn give_back(&mut self, slot: u32, now: Timestamp) {
        let State::Active(active) = self.jobs[slot].state else { return };
        self.end_lease(slot);
        let wake_by = Timestamp::from_unix_ms(self.jobs[slot].wake_by_ms);
        match active.back {
            Back::Due => self.place(slot, Placement::Ready { wake_by }, now),
            Back::Held => self.place(slot, Placement::Held, now),
            Back::Cancelled => self.place(slot, Placement::Cancelled, now),
            Back::Gone => {
                let id = self.jobs[slot].key.into();
                let payload = self.forget(slot);
                self.gone.push((id, payload));
            }
        }
    }

    fn wake(&mut self, index: u32) {
        if self.hops.get(index).is_none() {
            return;
        }
        self.close_if_unused(index);
        let Some(hop) = self.hops.get(index) else { return };
        let rotation = match hop.name.kind() {
            HopKind::Smtp => &mut self.smtp,
            HopKind::Mailbox => &mut self.mailbox,
        };
        rotation.wake(&mut self.hops, index);
    }

    fn open_gate(&mut self, index: u32) {
        let hop = &mut self.hops[index];
        if let Gate::Closed(until) = hop.gate {
            hop.gate = Gate::Open;
            self.counts.ready += hop.due.len() as u64;
            self.timers.remove(&(until, Timer::Hop(index)));
        }
    }

    /// Forgets a hop for which nothing is queued, once nothing is known about it either.
    fn close_if_unused(&mut self, index: u32) {
        let hop = &self.hops[index];
        if hop.jobs > 0 {
            return;
        }
        if let Gate::Closed(until) = hop.gate
            && self.timers.contains(&(until, Timer::Hop(index)))
        {
            return;
        }
        self.open_gate(index);
        self.hops.forget_if_idle(index);
    }
}

#[cfg(test)]
mod tests;
