//! Next hops that are down, and those that are not used any more.

use mail_types::Timestamp;

use super::entry::State;
use super::hop::Gate;
use super::{Schedule, Timer};
use crate::model::NextHop;

impl<T: Clone> Schedule<T> {
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

    pub(super) fn wake(&mut self, index: u32) {
        if self.hops.get(index).is_none() {
            return;
        }
        self.close_if_unused(index);
        let Some(hop) = self.hops.get(index) else { return };
        let rotation = self.rotations.of(hop.name.kind());
        rotation.wake(&mut self.hops, index);
    }

    pub(super) fn open_gate(&mut self, index: u32) {
        let hop = &mut self.hops[index];
        if let Gate::Closed(until) = hop.gate {
            hop.gate = Gate::Open;
            self.counts.ready += hop.due.len() as u64;
            self.timers.remove(&(until, Timer::Hop(index)));
        }
    }

    /// Forgets a hop for which nothing is queued, once nothing is known about it either.
    pub(super) fn close_if_unused(&mut self, index: u32) {
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
