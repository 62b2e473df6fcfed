//! What is known in memory: derived from the log, changed only by what is durable in it.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;

use mail_types::{QueueId, TenantId, Timestamp};
use queue::JobId;
use queue::schedule::{Back, LeaseToken, NewEntry, Placement, Schedule, Usage};
use queue::stored::{StoredMessage, StoredState};

use crate::cache::{Cache, Fresh};
use crate::record::{HEADER_BYTES, Record};

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    pub(crate) segment: NonZeroU32,
    pub(crate) offset: u32,
    pub(crate) meta_bytes: u32,
    pub(crate) content_bytes: u32,
}

impl Location {
    pub(crate) fn of(record: &Record, segment: NonZeroU32, offset: u32) -> Self {
        let (meta_bytes, content_bytes) = (record.meta_bytes(), record.content_bytes());
        Self { segment, offset, meta_bytes, content_bytes }
    }

    /// Octets in the log, but for what fills the record up.
    pub(crate) fn bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.meta_bytes) + u64::from(self.content_bytes)
    }
}

/// Where the records of a job are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Places {
    pub(crate) message: Location,
    /// None while nothing happened since the commit.
    pub(crate) state: Option<Location>,
    pub(crate) files: Files,
}

/// Whether the message has files of content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Files {
    None,
    Some,
}

/// A file of the log, as the index knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) mark: u64,
    pub(crate) bytes: u64,
    /// Octets of records that are still needed.
    pub(crate) live: u64,
}

pub(crate) struct Index {
    pub(crate) schedule: Schedule<Places>,
    pub(crate) segments: BTreeMap<u32, Segment>,
    pub(crate) cache: Cache,
    /// Messages on their way to the log, by tenant.
    arriving: HashMap<TenantId, Usage>,
    /// Octets of their records.
    arriving_bytes: u64,
    /// Messages that are gone and have files of content.
    garbage: Vec<QueueId>,
}

/// A message to be scheduled.
pub(crate) struct NewMessage {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) fresh: Option<Fresh>,
    pub(crate) files: Files,
    pub(crate) counted: Counted,
}

/// Whether a message was counted as arriving.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    No,
    Arriving {
        /// Octets of its record.
        log_bytes: u64,
    },
}

/// What a durable record changes.
pub(crate) enum Effect {
    Accepted(Box<NewMessage>),
    Settled {
        token: LeaseToken,
        places: Places,
        next: Next,
        follow_ups: Vec<NewMessage>,
    },
    Acted {
        job: JobId,
        places: Places,
        next: Next,
        back: Back,
        before: Option<Placement>,
    },
    /// Those that are `stopped` wait for an operator.
    Moved {
        message: QueueId,
        jobs: Vec<JobId>,
        stopped: Vec<JobId>,
    },
}

/// Where a job goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    Gone,
    At(Placement),
}

impl From<Option<Placement>> for Next {
    fn from(placement: Option<Placement>) -> Self {
        placement.map_or(Self::Gone, Self::At)
    }
}

impl Index {
    pub(crate) fn new(schedule: Schedule<Places>, cache: Cache) -> Self {
        let (segments, arriving) = (BTreeMap::new(), HashMap::new());
        let (arriving_bytes, garbage) = (0, Vec::new());
        Self { schedule, segments, cache, arriving, arriving_bytes, garbage }
    }

    /// Octets that the log has on the disk.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Octets of the log that are still needed.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.live).sum()
    }

    /// Does what a record says that is now durable at `at`.
    pub(crate) fn apply(&mut self, effect: Effect, at: Location, now: Timestamp) {
        match effect {
            Effect::Accepted(new) => self.insert(*new, at, now),
            Effect::Settled { token, places, next, follow_ups } => {
                self.settled(token, places, next, at, now);
                for new in follow_ups {
                    self.insert(new, at, now);
                }
            }
            Effect::Acted { job, places, next, back, before: _ } => {
                self.acted(job, places, next, back, at, now);
            }
            Effect::Moved { message, jobs, stopped } => {
                self.moved(message, &jobs, at);
                for job in stopped {
                    if let Some(&places) = self.schedule.payload(job) {
                        self.schedule.replace(job, Placement::Quarantined, places, now);
                    }
                }
            }
        }
        self.sweep();
    }

    /// Undoes what was done in memory for a record that was refused.
    pub(crate) fn refuse(&mut self, effect: &Effect, now: Timestamp) {
        match effect {
            Effect::Accepted(new) => self.uncount(new),
            Effect::Settled { token, .. } => self.schedule.unpin(token, now),
            Effect::Acted { job, before: Some(before), .. } => {
                if let Some(&places) = self.schedule.payload(*job) {
                    self.schedule.replace(*job, *before, places, now);
                }
            }
            Effect::Acted { before: None, .. } | Effect::Moved { .. } => {}
        }
        self.sweep();
    }

    fn insert(&mut self, new: NewMessage, at: Location, now: Timestamp) {
        self.uncount(&new);
        let places = Places { message: at, state: None, files: new.files };
        let placement = StoredState::fresh(&new.message.envelope).placement();
        // A fresh state has a place.
        let Some(placement) = placement else { return };
        if self.insert_jobs(&new.message, places, placement, now) {
            self.add_live(at);
        }
        if let Some(fresh) = new.fresh {
            self.cache.insert(new.message.id, fresh);
        }
    }

    /// Schedules all jobs of a message. Returns whether it is new.
    pub(crate) fn insert_jobs(
        &mut self,
        message: &StoredMessage,
        places: Places,
        placement: Placement,
        now: Timestamp,
    ) -> bool {
        let mut is_new = false;
        for (index, _) in (0..=u16::MAX).zip(&message.jobs) {
            let entry = new_entry(message, index, places, placement);
            is_new |= entry.is_some_and(|entry| self.schedule.insert(entry, now));
        }
        is_new
    }

    fn settled(
        &mut self,
        token: LeaseToken,
        before: Places,
        next: Next,
        at: Location,
        now: Timestamp,
    ) {
        // The lease was pinned, so it is held still.
        let job = token.job();
        match next {
            Next::Gone => {
                if self.schedule.finish(&token).is_ok() {
                    self.forgotten(job, before);
                }
            }
            Next::At(placement) => {
                let after = Places { state: Some(at), ..before };
                if self.schedule.settle(&token, placement, after, now).is_ok() {
                    self.state_moved(before, at);
                }
            }
        }
    }

    fn acted(
        &mut self,
        job: JobId,
        before: Places,
        next: Next,
        back: Back,
        at: Location,
        now: Timestamp,
    ) {
        let after = Places { state: Some(at), ..before };
        if self.schedule.request(job, back, after) {
            self.state_moved(before, at);
            return;
        }
        match next {
            Next::Gone => {
                if self.schedule.remove(job).is_some() {
                    self.forgotten(job, before);
                }
            }
            Next::At(placement) => {
                if self.schedule.replace(job, placement, after, now) {
                    self.state_moved(before, at);
                }
            }
        }
    }

    fn moved(&mut self, message: QueueId, jobs: &[JobId], at: Location) {
        for (n, &job) in jobs.iter().enumerate() {
            let Some(&before) = self.schedule.payload(job) else { continue };
            if n == 0 {
                self.sub_live(before.message);
                self.add_live(at);
            }
            self.state_moved(before, at);
            let after = Places { message: at, state: Some(at), files: Files::Some };
            self.schedule.set_payload(job, after);
        }
        self.cache.remove(message);
    }

    fn state_moved(&mut self, before: Places, at: Location) {
        if let Some(state) = before.state {
            self.sub_live(state);
        }
        self.add_live(at);
    }

    /// A job is no more: so is its message, if it was the last.
    fn forgotten(&mut self, job: JobId, places: Places) {
        if let Some(state) = places.state {
            self.sub_live(state);
        }
        if self.schedule.has_message(job.message) {
            return;
        }
        self.sub_live(places.message);
        self.cache.remove(job.message);
        if places.files == Files::Some {
            self.garbage.push(job.message);
        }
    }

    /// Sees to the jobs that ended with their lease. To be called after what may end leases.
    pub(crate) fn sweep(&mut self) {
        for (job, places) in self.schedule.take_gone() {
            self.forgotten(job, places);
        }
    }

    pub(crate) fn take_garbage(&mut self) -> Vec<QueueId> {
        std::mem::take(&mut self.garbage)
    }

    fn add_live(&mut self, at: Location) {
        if let Some(segment) = self.segments.get_mut(&at.segment.get()) {
            segment.live += at.bytes();
        }
    }

    fn sub_live(&mut self, at: Location) {
        if let Some(segment) = self.segments.get_mut(&at.segment.get()) {
            segment.live = segment.live.saturating_sub(at.bytes());
        }
    }

    /// Counts what is live, after the log was read.
    pub(crate) fn count_live(&mut self) {
        self.segments.values_mut().for_each(|segment| segment.live = 0);
        let (mut from, mut last) = (None, None);
        loop {
            let page = self.schedule.page(from, 1024);
            for job in &page.jobs {
                if last.replace(job.id.message) != Some(job.id.message) {
                    self.add_live(job.payload.message);
                }
                if let Some(state) = job.payload.state {
                    self.add_live(state);
                }
            }
            from = page.next;
            if from.is_none() {
                return;
            }
        }
    }

    /// What a tenant has in the queue and on its way into it.
    pub(crate) fn usage(&self, tenant: &TenantId) -> Usage {
        let (queued, arriving) = (self.schedule.usage(tenant), self.arriving.get(tenant));
        let arriving = arriving.copied().unwrap_or_default();
        Usage {
            messages: queued.messages + arriving.messages,
            bytes: queued.bytes + arriving.bytes,
        }
    }

    pub(crate) fn arriving_bytes(&self) -> u64 {
        self.arriving_bytes
    }

    /// Counts a message as arriving until it is queued or refused.
    pub(crate) fn count(&mut self, tenant: &TenantId, size: u64, log_bytes: u64) {
        self.arriving_bytes += log_bytes;
        let usage = self.arriving.entry(tenant.clone()).or_default();
        usage.messages += 1;
        usage.bytes += size;
    }

    fn uncount(&mut self, new: &NewMessage) {
        let Counted::Arriving { log_bytes } = new.counted else { return };
        self.arriving_bytes -= log_bytes;
        let tenant = &new.message.envelope.tenant;
        let Some(usage) = self.arriving.get_mut(tenant) else { return };
        usage.messages -= 1;
        usage.bytes -= new.message.size();
        if usage.messages == 0 {
            self.arriving.remove(tenant);
        }
    }
}

/// A job of a message; `None` when the message has no such job.
pub(crate) fn new_entry(
    message: &StoredMessage,
    index: u16,
    payload: Places,
    placement: Placement,
) -> Option<NewEntry<Places>> {
    let job = message.jobs.get(usize::from(index))?;
    Some(NewEntry {
        id: JobId { message: message.id, index },
        tenant: message.envelope.tenant.clone(),
        next_hop: job.next_hop.clone(),
        size: message.size(),
        placement,
        payload,
    })
}
