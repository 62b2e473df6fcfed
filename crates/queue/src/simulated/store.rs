//! What is kept, and the schedule over it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use mail_types::{Envelope, QueueId, TenantId, Timestamp};

use super::faults::{Faults, cause};
use super::{PAGE, Settings};
use crate::contract::{AcceptError, Acted, Admission, SettleError};
use crate::model::{
    Action, Filter, FollowUp, HopKind, Job, JobId, NewJob, NextHop, Settlement, Stats,
};
use crate::schedule::{LeaseToken, Leased, NewEntry, Placement, Schedule};
use crate::stored::{Change, StoredMessage, StoredState};

/// Octets that a message and a state take besides content, when counting what the store has.
const RECORD: u64 = 512;

pub(super) struct Store {
    pub(super) faults: Faults,
    pub(super) schedule: Schedule<()>,
    pub(super) closed: bool,
    settings: Settings,
    durable: Durable,
    bytes: u64,
    /// Goes up with each crash; what was handed out before is void.
    epoch: u64,
    /// Leases that were settled, some of whose holders were not told.
    recorded: HashSet<LeaseToken>,
}

/// What survives a crash.
#[derive(Default)]
struct Durable {
    messages: BTreeMap<QueueId, Kept>,
    /// Of the jobs that have not ended.
    states: BTreeMap<JobId, Vec<u8>>,
    /// Every message that was ever committed: a repeated commit makes it once.
    known: BTreeSet<QueueId>,
}

struct Kept {
    record: Vec<u8>,
    content: Bytes,
    health: Result<(), Box<str>>,
}

impl Store {
    pub(super) fn new(seed: u64, settings: Settings) -> Self {
        Self {
            faults: Faults::new(seed),
            schedule: Schedule::new(settings.lease_time),
            closed: false,
            settings,
            durable: Durable::default(),
            bytes: 0,
            epoch: 0,
            recorded: HashSet::new(),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn new_id(&mut self, envelope: &Envelope) -> QueueId {
        let (high, low) = (self.faults.random(), self.faults.random());
        QueueId::new(envelope.arrival, u128::from(high) << 64 | u128::from(low))
    }

    /// Whether a message of `size` octets may be added.
    pub(super) fn admit(
        &self,
        admission: Admission,
        tenant: &TenantId,
        size: u64,
    ) -> Result<(), AcceptError> {
        let Settings { limit_bytes, reserve_bytes, quota, .. } = self.settings;
        let limit = match admission {
            Admission::Outside => limit_bytes,
            Admission::Internal => limit_bytes + reserve_bytes,
        };
        if self.bytes + size + RECORD > limit {
            return Err(AcceptError::Full);
        }
        if admission == Admission::Outside && !self.schedule.usage(tenant).admits(size, quota) {
            return Err(AcceptError::TenantQuota);
        }
        Ok(())
    }

    pub(super) fn is_known(&self, message: QueueId) -> bool {
        self.durable.known.contains(&message)
    }

    pub(super) fn is_recorded(&self, token: &LeaseToken) -> bool {
        self.recorded.contains(token)
    }

    /// Makes a message durable with its jobs. Does nothing if it was before.
    pub(super) fn keep(
        &mut self,
        id: QueueId,
        envelope: Arc<Envelope>,
        parts: [&[u8]; 3],
        jobs: Vec<NewJob>,
        now: Timestamp,
    ) {
        if !self.durable.known.insert(id) {
            return;
        }
        let [prefix_bytes, header_bytes, body_bytes] = parts.map(|part| part.len() as u64);
        let message = StoredMessage { id, envelope, jobs, prefix_bytes, header_bytes, body_bytes };
        let state = StoredState::fresh(&message.envelope);
        for index in (0..).take(message.jobs.len()) {
            self.durable.states.insert(JobId { message: id, index }, state.encode());
            self.schedule_job(&message, index, &state, now);
        }
        self.bytes += message.size() + RECORD;
        let content = Bytes::from(parts.concat());
        let kept = Kept { record: message.encode(), content, health: Ok(()) };
        self.durable.messages.insert(id, kept);
    }

    fn schedule_job(
        &mut self,
        message: &StoredMessage,
        index: u16,
        state: &StoredState,
        now: Timestamp,
    ) {
        let id = JobId { message: message.id, index };
        let job = message.jobs.get(usize::from(index));
        let (Some(job), Some(placement)) = (job, state.placement()) else {
            return self.end(id);
        };
        let entry = NewEntry {
            id,
            tenant: message.envelope.tenant.clone(),
            next_hop: job.next_hop.clone(),
            size: message.size(),
            placement,
            payload: (),
        };
        self.schedule.insert(entry, now);
    }

    /// Forgets a job, and its message with the last.
    fn end(&mut self, id: JobId) {
        self.durable.states.remove(&id);
        let message = id.message;
        let first = JobId { message, index: 0 };
        let last = JobId { message, index: u16::MAX };
        if self.durable.states.range(first..=last).next().is_none()
            && let Some(kept) = self.durable.messages.remove(&message)
        {
            self.bytes -= kept.content.len() as u64 + RECORD;
        }
    }

    pub(super) fn lease(
        &mut self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
        now: Timestamp,
    ) -> Vec<Leased<()>> {
        let leased = self.schedule.lease(kind, max, per_hop, now);
        self.end_gone();
        leased
    }

    pub(super) fn lease_more(&mut self, hop: &NextHop, now: Timestamp) -> Option<Leased<()>> {
        let leased = self.schedule.lease_more(hop, now);
        self.end_gone();
        leased
    }

    pub(super) fn release(&mut self, token: &LeaseToken, now: Timestamp) {
        self.schedule.release(token, now);
        self.end_gone();
    }

    fn end_gone(&mut self) {
        for (id, ()) in self.schedule.take_gone() {
            self.end(id);
        }
    }

    /// Records an outcome with its follow-ups. The lease has just been found good.
    pub(super) fn settle(
        &mut self,
        token: &LeaseToken,
        settlement: &Settlement,
        now: Timestamp,
    ) -> Result<(), SettleError> {
        let id = token.job();
        let state = self.state(id).ok_or(SettleError::LeaseLost)?;
        let length =
            |follow_up: &FollowUp| follow_up.parts().map(<[u8]>::len).iter().sum::<usize>();
        let added: usize = settlement.follow_ups.iter().map(length).sum();
        let limit = self.settings.limit_bytes + self.settings.reserve_bytes;
        if added > 0 && self.bytes + added as u64 > limit {
            return Err(SettleError::Unavailable(cause()));
        }
        for follow_up in &settlement.follow_ups {
            let envelope = Arc::new(follow_up.envelope.clone());
            let message = follow_up.id(id, state.attempts);
            self.keep(message, envelope, follow_up.parts(), follow_up.jobs.clone(), now);
        }
        let next = state.settled(settlement);
        let placement = next.as_ref().and_then(StoredState::placement);
        match (next, placement) {
            (Some(next), Some(placement)) => {
                self.schedule.settle(token, placement, (), now)?;
                self.durable.states.insert(id, next.encode());
            }
            _ => {
                self.schedule.finish(token)?;
                self.end(id);
            }
        }
        self.recorded.insert(*token);
        Ok(())
    }

    pub(super) fn act(&mut self, id: JobId, action: Action, now: Timestamp) -> Option<Acted> {
        let state = self.state(id)?;
        let view = self.schedule.get(id)?;
        let acting = state.acted(action, view.phase);
        match acting.change {
            Change::Nothing => {}
            Change::Gone => {
                self.schedule.remove(id);
                self.end(id);
            }
            Change::State(state) => {
                self.durable.states.insert(id, state.encode());
                let placement = state.placement().unwrap_or(Placement::Held);
                if !self.schedule.request(id, state.back(), ()) {
                    self.schedule.replace(id, placement, (), now);
                }
            }
        }
        Some(Acted { job: id, result: acting.result })
    }

    /// A page of the jobs that match, and where the next begins.
    pub(super) fn select(
        &mut self,
        from: Option<JobId>,
        filter: &Filter,
        now: Timestamp,
    ) -> (Vec<JobId>, Option<JobId>) {
        self.schedule.advance(now);
        self.end_gone();
        let page = self.schedule.page(from, PAGE);
        let may_match = |id: &JobId| self.job(*id).is_some_and(|job| filter.matches(&job, now));
        (page.jobs.iter().map(|view| view.id).filter(may_match).collect(), page.next)
    }

    pub(super) fn jobs_of(&mut self, message: QueueId, now: Timestamp) -> Vec<Job> {
        self.schedule.advance(now);
        self.end_gone();
        let views = self.schedule.of_message(message);
        views.iter().filter_map(|view| self.job(view.id)).collect()
    }

    pub(super) fn job(&self, id: JobId) -> Option<Job> {
        let kept = self.durable.messages.get(&id.message)?;
        let message = StoredMessage::decode(&kept.record).ok()?;
        Some(self.state(id)?.job(&message, &self.schedule.get(id)?))
    }

    fn state(&self, id: JobId) -> Option<StoredState> {
        // Written by us and never damaged: only content is.
        self.durable.states.get(&id).and_then(|record| StoredState::decode(record).ok())
    }

    /// The content with its health: what is wrong with it, if anything.
    pub(super) fn content(&self, message: QueueId) -> Option<(Bytes, Result<(), Box<str>>)> {
        let kept = self.durable.messages.get(&message)?;
        Some((kept.content.clone(), kept.health.clone()))
    }

    pub(super) fn damage(&mut self, message: QueueId) -> bool {
        let kept = self.durable.messages.get_mut(&message);
        kept.map(|kept| kept.health = Err("simulated damage".into())).is_some()
    }

    pub(super) fn stats(&mut self, now: Timestamp) -> Stats {
        self.schedule.advance(now);
        self.end_gone();
        let counts = self.schedule.counts();
        Stats {
            messages: counts.messages,
            content_bytes: counts.content_bytes,
            ready: counts.ready,
            active: counts.active,
            deferred: counts.deferred(),
            held: counts.held,
            quarantined: counts.quarantined,
            oldest_ready: self.schedule.oldest_ready(),
            store_bytes: self.bytes,
            store_limit_bytes: self.settings.limit_bytes,
        }
    }

    /// Starts again with what is durable.
    pub(super) fn crash(&mut self, now: Timestamp) {
        self.epoch += 1;
        self.recorded.clear();
        self.schedule = Schedule::new(self.settings.lease_time);
        let states: Vec<JobId> = self.durable.states.keys().copied().collect();
        for id in states {
            let kept = self.durable.messages.get(&id.message);
            let message = kept.and_then(|kept| StoredMessage::decode(&kept.record).ok());
            if let (Some(message), Some(state)) = (message, self.state(id)) {
                self.schedule_job(&message, id.index, &state, now);
            }
        }
    }
}

impl FollowUp {
    /// The parts of the content.
    fn parts(&self) -> [&[u8]; 3] {
        [&self.head.prefix, &self.head.header, &self.body]
    }
}
