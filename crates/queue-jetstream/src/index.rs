//! What the owner of partitions knows in memory.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::Subject;
use mail_types::{QueueId, TenantId, Timestamp};
use queue::JobId;
use queue::schedule::{NewEntry, Placement, Schedule, Usage};
use queue::stored::StoredState;

use crate::names::{Door, Partition};
use crate::record::{Arrival, JobRecord, ManifestPlace};

/// Where a job is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In an intake, and in hand.
    Intake,
    /// As a record in the stream of its partition.
    Record(Partition, u64),
}

/// By which intake a message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    pub(crate) partition: Partition,
    pub(crate) door: Door,
}

/// A message of an intake that was pulled and has not ended there.
#[derive(Clone, Debug)]
pub(crate) struct InHand {
    pub(crate) arrival: Arc<Arrival>,
    pub(crate) way: Way,
    /// Where its end is told.
    pub(crate) reply: Subject,
    /// Where its content was copied to.
    pub(crate) copied: Option<ManifestPlace>,
}

pub(crate) struct Index {
    pub(crate) schedule: Schedule<Place>,
    pub(crate) hand: HashMap<QueueId, InHand>,
    /// Messages of an intake whose end no server has confirmed yet.
    pub(crate) ending: HashMap<QueueId, Way>,
    /// Messages that we committed and that have not come back to us as their partitions' owner.
    arriving: HashMap<QueueId, (TenantId, u64)>,
}

impl Index {
    pub(crate) fn new(schedule: Schedule<Place>) -> Self {
        Self { schedule, hand: HashMap::new(), ending: HashMap::new(), arriving: HashMap::new() }
    }

    /// A message that was just committed counts for its tenant.
    pub(crate) fn arriving(&mut self, message: QueueId, tenant: TenantId, size: u64) {
        self.arriving.insert(message, (tenant, size));
    }

    /// It has been seen in the queue, or was not committed.
    pub(crate) fn arrived(&mut self, message: QueueId) {
        self.arriving.remove(&message);
    }

    pub(crate) fn usage(&self, tenant: &TenantId) -> Usage {
        let mut usage = self.schedule.usage(tenant);
        for (_, size) in self.arriving.values().filter(|(of, _)| of == tenant) {
            usage.messages += 1;
            usage.bytes += size;
        }
        usage
    }

    /// Schedules a message that came out of an intake. It is for one next hop.
    pub(crate) fn insert_arrival(&mut self, in_hand: InHand, now: Timestamp) {
        let arrival = Arc::clone(&in_hand.arrival);
        let message = &arrival.message;
        self.arrived(message.id);
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
        self.hand.insert(message.id, in_hand);
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
        self.arrived(id.message);
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

    /// How many messages of an intake are in hand.
    pub(crate) fn in_hand(&self, way: Way) -> usize {
        self.hand.values().filter(|in_hand| in_hand.way == way).count()
    }
}
