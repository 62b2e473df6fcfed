//! Where a recipient's mail goes.

use std::collections::BTreeSet;

use mail_types::{Domain, ForwardPath, Host, LocalPart, Mailbox};

use crate::identity::key;
use crate::table::{Entry, Table};

/// One address that a recipient stands for, after aliases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// A mailbox of ours. `address` is the mailbox's own, whatever name or sub-address was used.
    Mailbox { address: Mailbox },
    /// Somewhere else, by SMTP.
    Remote { address: Mailbox },
}

/// What the table says about a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The domain is ours; at least one destination, no two alike.
    Local(Vec<Destination>),
    /// The domain is not ours: only for those who may relay.
    Remote(Host),
    /// The domain is ours and has no such recipient: `550 5.1.1`.
    UnknownRecipient,
    /// The domain is ours and takes no mail: `550 5.1.2`.
    Disabled,
}

/// The most destinations that aliases may lead to.
pub(crate) const DESTINATIONS_MAX: usize = 1_000;

impl Table {
    /// Follows aliases from a forward-path to where its mail goes.
    pub fn resolve(&self, path: &ForwardPath) -> Resolution {
        let address = match path {
            ForwardPath::Postmaster => match self.postmaster() {
                Some(address) => address,
                None => return Resolution::UnknownRecipient,
            },
            ForwardPath::Mailbox(address) => address,
        };
        let hosted = address.domain().and_then(|domain| self.domain(domain));
        let Some(hosted) = hosted else { return Resolution::Remote(address.host().clone()) };
        if !hosted.inbound_enabled {
            return Resolution::Disabled;
        }
        let mut found = Vec::new();
        self.expand(address, &mut BTreeSet::new(), &mut found);
        if found.is_empty() { Resolution::UnknownRecipient } else { Resolution::Local(found) }
    }

    /// Adds the destinations of `address`; `seen` ends loops.
    pub(crate) fn expand(
        &self,
        address: &Mailbox,
        seen: &mut BTreeSet<String>,
        found: &mut Vec<Destination>,
    ) {
        if found.len() >= DESTINATIONS_MAX || !seen.insert(key(address)) {
            return;
        }
        let hosted = address.domain().and_then(|domain| self.domain(domain).map(|_| domain));
        let Some(domain) = hosted else {
            found.push(Destination::Remote { address: address.clone() });
            return;
        };
        match self.entry(address.local_part(), domain) {
            None => {}
            Some(Entry::Mailbox(own)) => {
                let destination = Destination::Mailbox { address: own.clone() };
                if !found.contains(&destination) {
                    found.push(destination);
                }
            }
            Some(Entry::Alias(targets)) => {
                for target in targets {
                    self.expand(target, seen, found);
                }
            }
        }
    }

    /// The mailbox or alias of a local part: itself, without its `+tag`, or the catch-all.
    fn entry(&self, local_part: &LocalPart, domain: &Domain) -> Option<&Entry> {
        let hosted = self.domain(domain)?;
        let name = local_part.as_str().to_ascii_lowercase();
        let base = name.split_once('+').map(|(base, _)| base).filter(|base| !base.is_empty());
        hosted
            .entries
            .get(&name)
            .or_else(|| base.and_then(|base| hosted.entries.get(base)))
            .or(hosted.catch_all.as_ref())
    }
}
