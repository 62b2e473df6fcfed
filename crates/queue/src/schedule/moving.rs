//! How jobs move. A job is in the lists of its state, has at most one timer, and is counted once.

use mail_types::Timestamp;

use super::entry::{NEVER, Placement, State, Why};
use super::hop::Gate;
use super::{JobId, Schedule, Timer};
use crate::model::Wait;

impl<T: Clone> Schedule<T> {
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

    pub(super) fn place(&mut self, slot: u32, placement: Placement, now: Timestamp) {
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
    pub(super) fn enlist(&mut self, slot: u32, state: State, now_ms: i64) {
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
                self.hops[hop].active.insert((arrival, slot));
                self.set_timer(slot, active.deadline_ms);
            }
            State::Held | State::Quarantined => self.count_unlisted(slot, 1),
        }
    }

    /// Takes a job out of the lists and the count of its state.
    pub(super) fn unlist(&mut self, slot: u32) {
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
            State::Active(_) => {
                hop.active.remove(&(entry.arrival_ms(), slot));
                self.counts.active -= 1;
            }
            State::Held | State::Quarantined => self.count_unlisted(slot, -1),
        }
    }

    pub(super) fn forget(&mut self, slot: u32) -> T {
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

    pub(super) fn set_timer(&mut self, slot: u32, at_ms: i64) {
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

    pub(super) fn job_timer(&mut self, slot: u32, now: Timestamp) {
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
