//! What we committed and no owner of a partition has told of yet: it counts for its tenant.

use std::collections::HashMap;
use std::time::Duration;

use mail_types::{QueueId, TenantId};
use queue::schedule::Usage;
use tokio::time::Instant;

/// How long it takes until the owner of a partition has told of a message.
const LASTS: Duration = Duration::from_secs(3);

struct Message {
    tenant: TenantId,
    size: u64,
    since: Instant,
}

/// Asked for each message that comes in: a tenant's sum is kept, not computed.
#[derive(Default)]
pub(crate) struct Arriving {
    messages: HashMap<QueueId, Message>,
    tenants: HashMap<TenantId, Usage>,
}

impl Arriving {
    pub(crate) fn insert(&mut self, id: QueueId, tenant: TenantId, size: u64) {
        self.remove(id);
        let usage = self.tenants.entry(tenant.clone()).or_default();
        usage.messages += 1;
        usage.bytes += size;
        self.messages.insert(id, Message { tenant, size, since: Instant::now() });
    }

    /// It has been seen in the queue, or was not committed.
    pub(crate) fn remove(&mut self, id: QueueId) {
        if let Some(message) = self.messages.remove(&id) {
            forget(&mut self.tenants, &message);
        }
    }

    /// What was committed a while ago is counted by its partition's owner.
    pub(crate) fn expire(&mut self) {
        let tenants = &mut self.tenants;
        self.messages.retain(|_, message| {
            let is_fresh = message.since.elapsed() < LASTS;
            if !is_fresh {
                forget(tenants, message);
            }
            is_fresh
        });
    }

    pub(crate) fn of(&self, tenant: &TenantId) -> Usage {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }
}

fn forget(tenants: &mut HashMap<TenantId, Usage>, message: &Message) {
    let Some(usage) = tenants.get_mut(&message.tenant) else { return };
    usage.messages -= 1;
    usage.bytes -= message.size;
    if usage.messages == 0 {
        tenants.remove(&message.tenant);
    }
}

#[cfg(test)]
mod tests {
    use mail_types::Timestamp;

    use super::*;

    fn usage(arriving: &Arriving, tenant: &TenantId) -> (u64, u64) {
        let usage = arriving.of(tenant);
        (usage.messages, usage.bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn each_message_counts_once_until_it_is_seen_or_old() {
        let [one, two] = ["one", "two"].map(TenantId::new);
        let id = |n| QueueId::new(Timestamp::from_unix_ms(1_795_388_895_042), n);
        let mut arriving = Arriving::default();
        arriving.insert(id(1), one.clone(), 10);
        arriving.insert(id(1), one.clone(), 10);
        arriving.insert(id(2), two.clone(), 5);
        assert_eq!((usage(&arriving, &one), usage(&arriving, &two)), ((1, 10), (1, 5)));
        arriving.remove(id(2));
        arriving.remove(id(2));
        tokio::time::advance(LASTS / 2).await;
        arriving.insert(id(3), one.clone(), 7);
        arriving.expire();
        assert_eq!((usage(&arriving, &one), usage(&arriving, &two)), ((2, 17), (0, 0)));
        tokio::time::advance(LASTS / 2).await;
        arriving.expire();
        assert_eq!(usage(&arriving, &one), (1, 7));
        tokio::time::advance(LASTS).await;
        arriving.expire();
        assert!(arriving.messages.is_empty() && arriving.tenants.is_empty());
    }
}
