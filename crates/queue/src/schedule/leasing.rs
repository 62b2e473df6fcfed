//! Leases: who has a job, and until when.

use mail_types::Timestamp;

use super::entry::{Active, Back, Holder, NEVER, Placement, State, Why};
use super::hop::{Gate, Turn};
use super::{LeaseLost, LeaseToken, Leased, Schedule};
use crate::model::{HopKind, LeaseReason, NextHop};

/// Jobs that a connection may take out of turn while another next hop waits for its own.
pub(super) const RUN: usize = 16;

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
            let rotation = self.rotations.of(kind);
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
            let rotation = self.rotations.of(self.hops[hop].name.kind());
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
}

impl<T: Clone> Schedule<T> {
    pub(super) fn lease_from(&mut self, hop: u32, now: Timestamp) -> Option<Leased<T>> {
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
    pub(super) fn pick(&mut self, index: u32, now_ms: i64) -> Option<(u32, LeaseReason)> {
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

    pub(super) fn held_by(&self, token: &LeaseToken) -> Result<u32, LeaseLost> {
        let slot = self.slot(token.id).ok_or(LeaseLost)?;
        let State::Active(active) = self.jobs[slot].state else { return Err(LeaseLost) };
        if active.token == token.number { Ok(slot) } else { Err(LeaseLost) }
    }

    pub(super) fn set_deadline(&mut self, slot: u32, deadline: i64) {
        if let State::Active(active) = &mut self.jobs[slot].state {
            active.deadline_ms = deadline;
            self.set_timer(slot, deadline);
        }
    }

    /// Makes a leased job one that is held, in name only: the caller places or forgets it.
    pub(super) fn end_lease(&mut self, slot: u32) {
        self.unlist(slot);
        self.jobs[slot].state = State::Held;
        self.count_unlisted(slot, 1);
        let index = self.jobs[slot].hop;
        let hop = &mut self.hops[index];
        hop.leased -= 1;
        if hop.probe == Some(slot) {
            hop.probe = None;
        }
        let rotation = self.rotations.of(hop.name.kind());
        rotation.lease_ended(&mut self.hops, index);
    }

    pub(super) fn give_back(&mut self, slot: u32, now: Timestamp) {
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
}
