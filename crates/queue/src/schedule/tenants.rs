//! Tenants by number, with what they have in the queue.

use std::collections::HashMap;
use std::sync::Arc;

use mail_types::TenantId;

use super::census::Unlisted;
use super::slab::Slab;

/// What a tenant has in the queue, or may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    pub messages: u64,
    /// Octets of content.
    pub bytes: u64,
}

impl Usage {
    /// Whether a message of `size` octets more stays within `limit`.
    pub fn admits(self, size: u64, limit: Self) -> bool {
        self.messages < limit.messages && self.bytes.saturating_add(size) <= limit.bytes
    }
}

pub(super) struct Tenant {
    pub(super) name: Arc<TenantId>,
    pub(super) usage: Usage,
    pub(super) jobs: usize,
    pub(super) unlisted: Unlisted,
}

pub(super) struct Tenants {
    slab: Slab<Tenant>,
    by_name: HashMap<Arc<TenantId>, u32>,
}

impl Tenants {
    pub(super) fn new() -> Self {
        Self { slab: Slab::new(), by_name: HashMap::new() }
    }

    /// The number of a tenant, for one more job.
    pub(super) fn enter(&mut self, name: &TenantId) -> u32 {
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None => {
                let name = Arc::new(name.clone());
                let tenant = Tenant {
                    name: Arc::clone(&name),
                    usage: Usage::default(),
                    jobs: 0,
                    unlisted: Unlisted::default(),
                };
                let index = self.slab.insert(tenant);
                self.by_name.insert(name, index);
                index
            }
        };
        self.slab[index].jobs += 1;
        index
    }

    /// One job less.
    pub(super) fn leave(&mut self, index: u32) {
        self.slab[index].jobs -= 1;
        if self.slab[index].jobs == 0 {
            let tenant = self.slab.remove(index);
            self.by_name.remove(&tenant.name);
        }
    }

    pub(super) fn usage(&self, name: &TenantId) -> Usage {
        self.by_name.get(name).map(|&index| self.slab[index].usage).unwrap_or_default()
    }

    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &Tenant)> {
        self.by_name.values().map(|&index| (index, &self.slab[index]))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TenantId, Usage)> {
        self.by_name.iter().map(|(name, &index)| (&**name, self.slab[index].usage))
    }
}

impl std::ops::Index<u32> for Tenants {
    type Output = Tenant;

    fn index(&self, index: u32) -> &Tenant {
        &self.slab[index]
    }
}

impl std::ops::IndexMut<u32> for Tenants {
    fn index_mut(&mut self, index: u32) -> &mut Tenant {
        &mut self.slab[index]
    }
}
