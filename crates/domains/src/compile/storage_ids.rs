//! Ids of storage that people give: of their own domains, and each of one mailbox.

use std::collections::HashMap;

use mail_types::{Mailbox, TenantId};

use super::{Compiler, tenant};
use crate::spec::{MailboxSpec, Metadata};
use crate::storage::StorageId;
use crate::yaml::{Declared, Resource};

const FIELD: &str = "spec.storageId";

impl Compiler {
    /// No two mailboxes share a directory, and none has one that was another namespace's.
    pub(super) fn check_storage_ids(&mut self, declared: &[Declared]) {
        let mut given = HashMap::new();
        for (at, metadata, spec) in mailboxes(declared) {
            let Some(text) = &spec.storage_id else { continue };
            let Ok(id) = text.parse::<StorageId>() else {
                let remedy = "write the id that `postrider domain mailbox` prints for the mailbox";
                self.wrong(at, FIELD, format!("{text:?} is not 64 of 0-9 and a-f"), remedy);
                continue;
            };
            if let Some(first) = given.insert(id, at) {
                self.given_already(at, FIELD, first);
            }
            let owner = self.owner_of(id);
            if !self.is_partial && owner.as_ref() != Some(&tenant(metadata)) {
                let remedy = "write the id of a mailbox that the namespace has or had, and keep \
                              the MailDomain that its address was in";
                let message = "ends like those of no domain of this namespace";
                self.wrong(at, FIELD, message, remedy);
            }
        }
        if given.is_empty() {
            return;
        }
        let derived = mailboxes(declared).filter(|(.., spec)| spec.storage_id.is_none());
        for (at, _, spec) in derived {
            let address = Mailbox::parse(&spec.address).ok();
            let id = address.and_then(|address| StorageId::of(&address));
            if let Some(first) = id.and_then(|id| given.get(&id)) {
                self.given_already(at, "spec.address", first);
            }
        }
    }

    /// Whose domain the id is of.
    fn owner_of(&mut self, id: StorageId) -> Option<TenantId> {
        let of_domains = || {
            let domains = self.table.domains.iter();
            let half = domains.map(|(domain, it)| (StorageId::half_of(domain), it.tenant.clone()));
            half.collect()
        };
        self.storage_owners.get_or_insert_with(of_domains).get(&id.domain_half()).cloned()
    }

    fn given_already(&mut self, at: &Declared, field: &str, first: &Declared) {
        let place = first.place(FIELD);
        let message =
            format!("its mail would be where {}:{} has another's", place.file, place.line);
        let remedy = "give one of them a storageId of its own: any first 32 digits, the same last";
        self.wrong(at, field, message, remedy);
    }
}

fn mailboxes(declared: &[Declared]) -> impl Iterator<Item = (&Declared, &Metadata, &MailboxSpec)> {
    declared.iter().filter_map(|at| match &at.resource {
        Resource::Mailbox { metadata, spec } => Some((at, metadata, spec)),
        Resource::MailDomain { .. } => None,
    })
}
