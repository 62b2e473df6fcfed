//! Mail that was just committed: its first attempt reads neither the disk nor JSON.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use mail_types::QueueId;
use queue::stored::StoredMessage;

use crate::record::FilePart;

/// A message as it was committed.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    pub(crate) message: Arc<StoredMessage>,
    /// The content, but for what is in a file.
    pub(crate) inline: Vec<Bytes>,
    pub(crate) rest: FilePart,
}

impl Fresh {
    /// Octets in memory, about.
    fn cost(&self) -> u64 {
        const ENVELOPE: u64 = 1024;
        ENVELOPE + self.inline.iter().map(|part| part.len() as u64).sum::<u64>()
    }
}

/// The newest messages that fit a budget.
pub(crate) struct Cache {
    budget: u64,
    used: u64,
    by_id: HashMap<QueueId, Fresh>,
    /// Oldest first; some are gone.
    order: VecDeque<QueueId>,
}

impl Cache {
    pub(crate) fn new(budget: u64) -> Self {
        Self { budget, used: 0, by_id: HashMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn get(&self, id: QueueId) -> Option<&Fresh> {
        self.by_id.get(&id)
    }

    pub(crate) fn insert(&mut self, id: QueueId, fresh: Fresh) {
        self.used += fresh.cost();
        if let Some(old) = self.by_id.insert(id, fresh) {
            self.used -= old.cost();
        } else {
            self.order.push_back(id);
        }
        while self.used > self.budget
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(oldest);
        }
        if self.order.len() > 2 * self.by_id.len() + 64 {
            self.order.retain(|id| self.by_id.contains_key(id));
        }
    }

    pub(crate) fn remove(&mut self, id: QueueId) {
        if let Some(fresh) = self.by_id.remove(&id) {
            self.used -= fresh.cost();
        }
    }
}

#[cfg(test)]
impl Cache {
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.budget);
    }
}
