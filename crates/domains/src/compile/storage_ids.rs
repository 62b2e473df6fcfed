//! Ids of storage that people give: of their own domains, and each of one mailbox.

use std::collections::HashMap;
use std::collections::hash_map;

use mail_types::TenantId;

use super::{Compiler, tenant};
use crate::problem::{Problem, Source};
use crate::spec::{MailboxSpec, Metadata};
use crate::storage::StorageId;
use crate::yaml::Declared;

const FIELD: &str = "spec.storageId";

/// Who gave an id, and where.
pub(super) struct Given {
    tenant: TenantId,
    at: Source,
}

impl Compiler<'_> {
    /// The id that somebody gives to a mailbox; no two give the same.
    pub(super) fn storage_id(
        &mut self,
        at: &Declared,
        metadata: &Metadata,
        spec: &MailboxSpec,
    ) -> Option<StorageId> {
        let text = spec.storage_id.as_ref()?;
        self.files.is_read_always(at.file());
        let Ok(id) = text.parse::<StorageId>() else {
            let remedy = "write the id that `postrider domain mailbox` prints for the mailbox";
            self.wrong(at, FIELD, format!("{text:?} is not 64 of 0-9 and a-f"), remedy);
            return None;
        };
        match self.storage_ids.entry(id) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(Given { tenant: tenant(metadata), at: at.place(FIELD) });
            }
            hash_map::Entry::Occupied(first) => {
                let problem = taken(at.place(FIELD), &place_of(&first.get().at));
                self.problems.push(problem);
            }
        }
        Some(id)
    }

    /// No two mailboxes share a directory, and none has one that was another namespace's.
    pub(super) fn check_storage_ids(&mut self) {
        if self.storage_ids.is_empty() {
            return;
        }
        let of_domains = self.table.domains.iter();
        let owners: HashMap<_, _> =
            of_domains.map(|(domain, it)| (StorageId::half_of(domain), &it.tenant)).collect();
        let given = self.storage_ids.iter();
        let foreign = given
            .filter(|(id, given)| owners.get(&id.domain_half()) != Some(&&given.tenant))
            .map(|(_, given)| foreign(given.at.clone()));
        if !self.is_partial {
            self.problems.extend(foreign);
        }
        let derived = self.derived_storage_ids();
        let given = derived.filter_map(|(address, id)| Some((address, self.storage_ids.get(&id)?)));
        let problems: Vec<Problem> =
            given.map(|(address, given)| taken(given.at.clone(), &address)).collect();
        self.problems.extend(problems);
    }

    /// Those of the mailboxes that nobody gives one, by their addresses.
    fn derived_storage_ids(&self) -> impl Iterator<Item = (String, StorageId)> {
        self.table.domains.iter().flat_map(|(domain, declaration)| {
            let entries = declaration.entries.iter();
            let derived = entries
                .filter(|(_, entry)| entry.keeping().is_some_and(|it| it.storage_id.is_none()));
            derived.map(move |(name, _)| {
                (format!("{name}@{domain}"), StorageId::derived(name, domain))
            })
        })
    }
}

fn foreign(at: Source) -> Problem {
    let message = "ends like those of no domain of this namespace".to_owned();
    let remedy = "write the id of a mailbox that the namespace has or had, and keep the \
                  MailDomain that its address was in"
        .to_owned();
    Problem { at, field: FIELD.to_owned(), message, remedy }
}

fn taken(at: Source, other: &str) -> Problem {
    let message = format!("its mail would be where that of {other} is");
    let remedy =
        "give one of them a storageId of its own: any first 32 digits, the same last".to_owned();
    Problem { at, field: FIELD.to_owned(), message, remedy }
}

fn place_of(at: &Source) -> String {
    format!("{}:{}", at.file, at.line)
}
