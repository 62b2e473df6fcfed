//! What the owner of partitions knows in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use mail_types::{QueueId, TenantId, Timestamp};
use queue::schedule::{Leased, NewEntry, Placement, Schedule, Usage, View};
use queue::stored::StoredState;
use queue::{JobId, NextHop, Wait};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::arriving::Arriving;
use crate::hand::{Hand, InHand, Way};
use crate::lately::Lately;
use crate::names::Partition;
use crate::record::JobRecord;
use crate::usage::Others;

/// Where a job is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In an intake, and in hand.
    Intake,
    /// As a record in the stream of its partition.
    Record(Partition, u64),
}

impl Place {
    /// Whether what is stored at `other` is later.
    pub(crate) fn is_before(self, other: Self) -> bool {
        match (self, other) {
            (Self::Intake, Self::Record(..)) => true,
            (Self::Record(_, this), Self::Record(_, other)) => this < other,
            (_, Self::Intake) => false,
        }
    }
}

/// A message of an intake that has ended, while it may come again.
pub(crate) struct Ending {
    pub(crate) way: Way,
    /// Where its end is told.
    pub(crate) reply: Subject,
    /// Whether a server has heard of it, and does not count it any more.
    pub(crate) is_heard: bool,
}

/// When a job is looked at again whose partition is not certainly ours.
const NOT_OURS: Duration = Duration::from_secs(1);

pub(crate) struct Index {
    pub(crate) schedule: Schedule<Place>,
    pub(crate) hand: Hand,
    ending: HashMap<QueueId, Ending>,
    lately: Lately,
    /// Told when a message is neither in hand nor ending any more.
    pub(crate) left: Arc<Notify>,
    /// Jobs that we ended, with the sequence of their marks, until these have come back to us: a
    /// record that comes before is of the past.
    ended: HashMap<JobId, (Partition, u64)>,
    /// How far the records of a partition have come to us.
    positions: HashMap<Partition, u64>,
    /// Messages that we committed and that have not come back to us as their partitions' owner.
    pub(crate) arriving: Arriving,
    /// Jobs whose records the servers do not have, and since when.
    pub(crate) absent: HashMap<JobId, Timestamp>,
    /// What other processes have.
    pub(crate) others: Others,
}

impl Index {
    /// Knows messages that have ended for as long as `keep`.
    pub(crate) fn new(schedule: Schedule<Place>, keep: Duration) -> Self {
        Self {
            schedule,
            hand: Hand::default(),
            ending: HashMap::new(),
            lately: Lately::new(keep, Instant::now()),
            left: Arc::default(),
            ended: HashMap::new(),
            positions: HashMap::new(),
            arriving: Arriving::default(),
            absent: HashMap::new(),
            others: Others::default(),
        }
    }

    /// The message came again: its end is told to another by now. Whether it is one of those in
    /// hand or ending.
    pub(crate) fn came_again(&mut self, id: QueueId, reply: &Subject) -> bool {
        if let Some(ending) = self.ending.get_mut(&id) {
            (ending.reply, ending.is_heard) = (reply.clone(), false);
            return true;
        }
        self.hand.came_again(id, reply)
    }

    /// A message in hand has ended.
    pub(crate) fn end(&mut self, id: QueueId) -> Option<InHand> {
        let ended = self.hand.remove(id)?;
        let ending = Ending { way: ended.way, reply: ended.reply.clone(), is_heard: false };
        self.ending.insert(id, ending);
        Some(ended)
    }

    /// A server has heard of an end at `reply`, unless the message has come again since.
    pub(crate) fn heard(&mut self, id: QueueId, reply: &Subject) {
        if let Some(ending) = self.ending.get_mut(&id) {
            ending.is_heard |= ending.reply == *reply;
        }
    }

    /// Where the end of a message is told, unless it is forgotten.
    pub(crate) fn reply(&self, id: QueueId) -> Option<Subject> {
        self.ending.get(&id).map(|ending| ending.reply.clone())
    }

    pub(crate) fn ending(&self) -> impl Iterator<Item = &Ending> {
        self.ending.values()
    }

    /// The end of a message is confirmed, or nobody waits for it.
    pub(crate) fn forget_end(&mut self, id: QueueId) {
        self.ending.remove(&id);
        self.lately.note(id, Instant::now());
        self.left.notify_waiters();
    }

    /// Whether the message ended here lately, or has a record: in an intake it is no more than
    /// what a server has brought back.
    pub(crate) fn is_brought_back(&self, id: QueueId) -> bool {
        self.lately.contains(id) || self.schedule.has_message(id)
    }

    /// A message in hand is another's, or ended elsewhere.
    pub(crate) fn let_go(&mut self, id: QueueId) -> Option<InHand> {
        let in_hand = self.hand.remove(id);
        self.left.notify_waiters();
        in_hand
    }

    /// Whether a message is in hand, or its end in the intake is not confirmed.
    pub(crate) fn is_in_intake(&self, id: QueueId) -> bool {
        self.hand.get(id).is_some() || self.ending.contains_key(&id)
    }

    /// We marked a job's end.
    pub(crate) fn ended(&mut self, job: JobId, partition: Partition, mark: u64) {
        if self.positions.get(&partition).is_none_or(|position| *position < mark) {
            self.ended.insert(job, (partition, mark));
        }
    }

    /// A partition's records up to this one have come to us.
    pub(crate) fn passed(&mut self, partition: Partition, sequence: u64) {
        self.positions.insert(partition, sequence);
    }

    /// Whether a record with this sequence is of a job that we have ended since.
    pub(crate) fn is_past(&self, job: JobId, sequence: u64) -> bool {
        self.ended.get(&job).is_some_and(|(_, mark)| sequence <= *mark)
    }

    /// The mark of a job's end has come back.
    pub(crate) fn mark_seen(&mut self, job: JobId) {
        self.ended.remove(&job);
    }

    /// Nothing comes back of a partition that is another's.
    pub(crate) fn forget_marks(&mut self, partition: Partition) {
        self.ended.retain(|_, (of, _)| *of != partition);
        self.positions.remove(&partition);
    }

    pub(crate) fn usage(&self, tenant: &TenantId) -> Usage {
        let mut usage = self.schedule.usage(tenant);
        let (messages, bytes) = self.others.of(tenant);
        usage.messages += messages;
        usage.bytes += bytes;
        let arriving = self.arriving.of(tenant);
        usage.messages += arriving.messages;
        usage.bytes += arriving.bytes;
        usage
    }

    /// Schedules a message that came out of an intake. It is for one next hop.
    pub(crate) fn insert_arrival(&mut self, in_hand: InHand, now: Timestamp) {
        let message = Arc::clone(&in_hand.arrival.message);
        self.arriving.remove(message.id);
        let Some(job) = message.jobs.first() else { return };
        let fresh = StoredState::fresh(&message.envelope);
        let entry = NewEntry {
            id: JobId { message: message.id, index: 0 },
            tenant: message.envelope.tenant.clone(),
            next_hop: job.next_hop.clone(),
            size: message.size(),
            placement: Placement::Ready { wake_by: fresh.wake_by },
            payload: Place::Intake,
        };
        self.hand.insert(in_hand);
        self.schedule.insert(entry, now);
    }

    /// Schedules a job as its record says. Returns whether it is new.
    pub(crate) fn insert_record(
        &mut self,
        id: JobId,
        record: &JobRecord,
        placement: Placement,
        place: Place,
        now: Timestamp,
    ) -> bool {
        self.arriving.remove(id.message);
        let entry = NewEntry {
            id,
            tenant: record.head.tenant.clone(),
            next_hop: record.head.next_hop.clone(),
            size: record.head.size,
            placement,
            payload: place,
        };
        self.schedule.insert(entry, now)
    }

    /// Leases jobs of next hops that we serve. What is of another waits: for whoever forgets it
    /// when its partition is lost, or until it is certainly ours again.
    pub(crate) fn lease(
        &mut self,
        lease: impl FnOnce(&mut Schedule<Place>, Timestamp) -> Vec<Leased<Place>>,
        serves: impl Fn(&NextHop) -> bool,
        now: Timestamp,
    ) -> Vec<(View<Place>, Leased<Place>)> {
        let mut views = Vec::new();
        for leased in lease(&mut self.schedule, now) {
            let Some(view) = self.schedule.get(leased.token.job()) else { continue };
            if serves(&view.next_hop) {
                views.push((view, leased));
                continue;
            }
            let until = now + NOT_OURS;
            let waits = Placement::Deferred { until, wake_by: until, wait: Wait::Time };
            // Just leased, it is ours to settle.
            let _ = self.schedule.settle(&leased.token, waits, view.payload, now);
        }
        views
    }
}

#[cfg(test)]
mod tests {
    use mail_types::Host;
    use queue::{HopKind, Phase};

    use super::*;

    #[test]
    fn a_job_whose_partition_was_not_ours_for_a_moment_is_leased_when_it_is_again() {
        let now = Timestamp::from_unix_ms(1_795_388_895_042);
        let mut index = Index::new(Schedule::new(Duration::from_secs(60)), Duration::from_secs(60));
        let hop = NextHop::smtp(&Host::Domain("there.test".parse().unwrap()));
        let id = JobId { message: QueueId::new(now, 1), index: 0 };
        let entry = NewEntry {
            id,
            tenant: TenantId::new("one"),
            next_hop: hop,
            size: 1,
            placement: Placement::Ready { wake_by: now },
            payload: Place::Intake,
        };
        index.schedule.insert(entry, now);
        let mut lease = |serves: bool, now: Timestamp| {
            let all =
                |schedule: &mut Schedule<Place>, now| schedule.lease(HopKind::Smtp, 10, 10, now);
            index.lease(all, |_| serves, now).len()
        };
        assert_eq!(lease(false, now), 0);
        assert_eq!(lease(true, now), 0);
        assert_eq!(lease(true, now + NOT_OURS), 1);
        assert_eq!(index.schedule.get(id).map(|view| view.phase), Some(Phase::Active));
    }
}
