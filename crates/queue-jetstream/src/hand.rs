//! Messages of intakes that were pulled and have not ended there.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::Subject;
use mail_types::QueueId;

use crate::names::{Door, Partition};
use crate::record::{Arrival, ManifestPlace};

/// By which intake a message came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Way {
    pub(crate) partition: Partition,
    pub(crate) door: Door,
}

/// A message in hand.
#[derive(Clone, Debug)]
pub(crate) struct InHand {
    pub(crate) arrival: Arc<Arrival>,
    pub(crate) way: Way,
    /// By which it lies in the intake, and no other message.
    pub(crate) subject: Subject,
    /// Where its end is told.
    pub(crate) reply: Subject,
    /// Where its content was copied to.
    pub(crate) copied: Option<ManifestPlace>,
}

/// What of a way is in hand.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Filling {
    pub(crate) messages: usize,
    /// Octets of content in memory.
    pub(crate) bytes: u64,
}

/// Asked for each message that comes how full it is: the sums are kept, not computed.
#[derive(Default)]
pub(crate) struct Hand {
    messages: HashMap<QueueId, InHand>,
    ways: HashMap<Way, Filling>,
}

impl Hand {
    /// Takes a message in; one that was there goes.
    pub(crate) fn insert(&mut self, in_hand: InHand) {
        let id = in_hand.arrival.message.id;
        self.remove(id);
        let filling = self.ways.entry(in_hand.way).or_default();
        filling.messages += 1;
        filling.bytes += in_hand.bytes();
        self.messages.insert(id, in_hand);
    }

    pub(crate) fn remove(&mut self, id: QueueId) -> Option<InHand> {
        let in_hand = self.messages.remove(&id)?;
        if let Some(filling) = self.ways.get_mut(&in_hand.way) {
            filling.messages -= 1;
            filling.bytes -= in_hand.bytes();
        }
        Some(in_hand)
    }

    pub(crate) fn get(&self, id: QueueId) -> Option<&InHand> {
        self.messages.get(&id)
    }

    /// The message came again: its end is told to another by now.
    pub(crate) fn came_again(&mut self, id: QueueId, reply: &Subject) -> bool {
        let in_hand = self.messages.get_mut(&id);
        in_hand.map(|in_hand| in_hand.reply = reply.clone()).is_some()
    }

    pub(crate) fn copied(&mut self, id: QueueId, manifest: ManifestPlace) {
        if let Some(in_hand) = self.messages.get_mut(&id) {
            in_hand.copied = Some(manifest);
        }
    }

    pub(crate) fn filling(&self, way: Way) -> Filling {
        self.ways.get(&way).copied().unwrap_or_default()
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = &InHand> {
        self.messages.values()
    }
}

impl InHand {
    fn bytes(&self) -> u64 {
        self.arrival.inline.octets.len() as u64
    }
}
