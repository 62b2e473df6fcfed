//! Where a recipient's mail goes.

use std::collections::HashSet;

use mail_types::{Domain, ForwardPath, Host, LocalPart, Mailbox};

use crate::identity::{key, name};
use crate::separators::tag;
use crate::table::{Table, Target};

/// One address that a recipient stands for, after aliases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// A mailbox of ours, with the tag that was used, if any; [`Table::mailbox`] finds it.
    Mailbox { address: Mailbox },
    /// Somewhere else, by SMTP.
    Remote { address: Mailbox },
}

/// What the table says about a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The domain is ours; at least one destination, no two alike.
    Local(Vec<Destination>),
    /// The domain's mail is not received here: only for those who may relay.
    Remote(Host),
    /// The domain is ours and has no such recipient: `550 5.1.1`.
    UnknownRecipient,
}

/// The most destinations that aliases may lead to.
pub(crate) const DESTINATIONS_MAX: usize = 1_000;

impl Table {
    /// Follows aliases from a forward-path to where its mail goes.
    pub fn resolve(&self, path: &ForwardPath) -> Resolution {
        let address = match path {
            ForwardPath::Postmaster => self.postmaster(),
            ForwardPath::Mailbox(address) => Some(address),
        };
        let Some(address) = address else { return Resolution::UnknownRecipient };
        let is_hosted = address.domain().is_some_and(|domain| self.is_hosted(domain));
        if !is_hosted && *path != ForwardPath::Postmaster {
            return Resolution::Remote(address.host().clone());
        }
        let found = self.destinations(address);
        if found.is_empty() { Resolution::UnknownRecipient } else { Resolution::Local(found) }
    }

    /// The mailbox that takes mail for this address or this sub-address, by its own address. An
    /// alias is no mailbox, and one that only sends takes none.
    pub fn mailbox(&self, address: &Mailbox) -> Option<Mailbox> {
        match self.named(address.local_part(), address.domain()?)? {
            Target::Mailbox(own) => Some(own),
            Target::SendOnly(_) | Target::Alias(_) => None,
        }
    }

    /// Where mail for an address goes; empty when nowhere.
    pub(crate) fn destinations(&self, address: &Mailbox) -> Vec<Destination> {
        let mut found = Vec::new();
        self.expand(address, &mut HashSet::new(), &mut found);
        found
    }

    /// Adds the destinations of `address`; `seen` keeps them apart and ends loops.
    fn expand(&self, address: &Mailbox, seen: &mut HashSet<String>, found: &mut Vec<Destination>) {
        if found.len() >= DESTINATIONS_MAX || !seen.insert(self.key(address)) {
            return;
        }
        let Some(domain) = address.domain().filter(|domain| self.is_hosted(domain)) else {
            found.push(Destination::Remote { address: address.clone() });
            return;
        };
        match self.entry(address.local_part(), domain) {
            None | Some(Target::SendOnly(_)) => {}
            Some(Target::Mailbox(own)) => {
                let own_key = key(&own);
                let is_tagged = own_key != self.key(address);
                if !is_tagged || seen.insert(own_key) {
                    let address = with_tag(&own, address.local_part());
                    found.push(Destination::Mailbox { address });
                }
            }
            Some(Target::Alias(targets)) => {
                for target in targets {
                    self.expand(target, seen, found);
                }
            }
        }
    }

    /// The mailbox or alias of a local part, or the catch-all.
    pub(crate) fn entry(&self, local_part: &LocalPart, domain: &Domain) -> Option<Target<'_>> {
        let declaration = || self.domain(self.canonical(domain));
        let catch_all = || declaration()?.catch_all.as_deref().map(Target::Alias);
        self.named(local_part, domain).or_else(catch_all)
    }

    /// The mailbox or alias of a local part: itself, or what it is a sub-address of.
    pub(crate) fn named(&self, local_part: &LocalPart, domain: &Domain) -> Option<Target<'_>> {
        let domain = self.canonical(domain);
        let (name, entry) = self.domain(domain)?.entry(&name(local_part))?;
        entry.target(name, domain)
    }
}

/// A mailbox's own address with the tag of the local part that led to it, if both fit.
fn with_tag(own: &Mailbox, used: &LocalPart) -> Mailbox {
    let Some(tag) = tag(used.as_str(), own.local_part().as_str()) else { return own.clone() };
    let tagged = format!("{}{tag}@{}", own.local_part(), own.host());
    Mailbox::parse(&tagged).unwrap_or_else(|_| own.clone())
}
