//! What is asked of the schedule.

use std::ops::Bound;

use mail_types::{QueueId, TenantId, Timestamp};

use super::entry::{Back, JobKey, Placement, State, Why};
use super::hop::{Gate, Hop};
use super::{Counts, Glance, Page, Schedule, Usage, View};
use crate::model::{JobId, Phase};

/// Jobs that one selection looks at: half a millisecond.
const LOOKED_AT: usize = 4096;

impl<T: Clone> Schedule<T> {
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Arrival of the oldest message that has a job ready. O(next hops x tenants).
    pub fn oldest_ready(&self) -> Option<Timestamp> {
        let oldest = |hop: &Hop| {
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

    /// Whether a job is due and may be leased.
    pub fn is_ready(&self, id: JobId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let entry = &self.jobs[slot];
        match entry.state {
            State::Due => self.hops[entry.hop].gate == Gate::Open,
            State::Express(_) => true,
            State::Waiting | State::Active(_) | State::Held | State::Quarantined => false,
        }
    }

    pub fn has_message(&self, message: QueueId) -> bool {
        self.slots_of(message).next().is_some()
    }

    /// Whether a job of the message is as asked for.
    pub fn any_of_message(&self, message: QueueId, is_it: impl Fn(&View<T>) -> bool) -> bool {
        self.slots_of(message).any(|slot| is_it(&self.view(slot)))
    }

    pub fn of_message(&self, message: QueueId) -> Vec<View<T>> {
        self.slots_of(message).map(|slot| self.view(slot)).collect()
    }

    /// Up to `limit` jobs in order of arrival, from `from` on; short, so that a lock around the
    /// schedule is held for a short time.
    pub fn page(&self, from: Option<JobId>, limit: usize) -> Page<T> {
        self.select(from, limit, |_| true)
    }

    /// The same of those that are wanted. It looks at 4096 at most, wherever the next page begins
    /// then: for few among many, a lock is held no longer than for many.
    pub fn select(
        &self,
        from: Option<JobId>,
        limit: usize,
        is_wanted: impl Fn(&Glance<'_>) -> bool,
    ) -> Page<T> {
        let from = from.map_or(Bound::Unbounded, |id| Bound::Included(JobKey::from(id)));
        let mut rest = self.by_id.range((from, Bound::Unbounded));
        let mut jobs = Vec::new();
        for (_, &slot) in rest.by_ref().take(LOOKED_AT) {
            if is_wanted(&self.glance(slot)) {
                jobs.push(self.view(slot));
            }
            if jobs.len() == limit {
                break;
            }
        }
        Page { jobs, next: rest.next().map(|(&key, _)| key.into()) }
    }

    fn glance(&self, slot: u32) -> Glance<'_> {
        let entry = &self.jobs[slot];
        let hop = &self.hops[entry.hop];
        let phase = match entry.state {
            State::Due if hop.gate == Gate::Open => Phase::Ready,
            State::Express(_) => Phase::Ready,
            State::Due | State::Waiting => Phase::Deferred,
            State::Active(_) => Phase::Active,
            State::Held => Phase::Held,
            State::Quarantined => Phase::Quarantined,
        };
        let tenant = &self.tenants[entry.tenant].name;
        Glance { id: entry.key.into(), tenant, next_hop: &hop.name, phase }
    }

    pub(super) fn view(&self, slot: u32) -> View<T> {
        let entry = &self.jobs[slot];
        let Glance { id, tenant, next_hop, phase } = self.glance(slot);
        let is_tried = matches!(phase, Phase::Ready | Phase::Deferred);
        View {
            id,
            tenant: tenant.clone(),
            next_hop: next_hop.clone(),
            size: entry.size,
            phase,
            next_attempt: is_tried.then(|| Timestamp::from_unix_ms(entry.next_attempt_ms)),
            payload: entry.payload.clone(),
        }
    }

    pub(super) fn slot(&self, id: JobId) -> Option<u32> {
        self.by_id.get(&JobKey::from(id)).copied()
    }

    pub(super) fn slot_unless_active(&self, id: JobId) -> Option<u32> {
        self.slot(id).filter(|&slot| !matches!(self.jobs[slot].state, State::Active(_)))
    }

    pub(super) fn slots_of(&self, message: QueueId) -> impl Iterator<Item = u32> {
        let first = JobKey::from(JobId { message, index: 0 });
        let last = JobKey::from(JobId { message, index: u16::MAX });
        self.by_id.range(first..=last).map(|(_, &slot)| slot)
    }
}
