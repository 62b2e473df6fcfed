//! Where a recipient's mail goes.

use std::collections::HashSet;
use std::sync::Arc;

use mail_types::{Domain, ForwardPath, Host, LocalPart, Mailbox};

use crate::gateway::Gateway;
use crate::identity::{key, name};
use crate::separators::tag;
use crate::table::{Table, Target};

/// One address that a recipient stands for, after aliases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// A mailbox of ours, with the tag that was used, if any; [`Table::mailbox`] finds it.
    Mailbox { address: Mailbox },
    /// The domain's own server ([`Table::gateway`]), by SMTP.
    Gateway { address: Mailbox },
    /// Somewhere else, by SMTP.
    Remote { address: Mailbox },
}

/// What the table says about a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The domain is ours; at least one destination, no two alike.
    Local(Vec<Destination>),
    /// The domain's own server knows whether there is such a recipient
    /// ([`crate::CallAhead`]). If so, [`Destination::Gateway`] of this address it is.
    CallAhead { gateway: Arc<Gateway>, address: Mailbox },
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
        // RFC 5321 §4.5.1: `<postmaster>` is taken without a question.
        if let (Some(asked), ForwardPath::Mailbox(_)) = (self.asked(address), path) {
            return asked;
        }
        let found = self.destinations(address);
        if found.is_empty() { Resolution::UnknownRecipient } else { Resolution::Local(found) }
    }

    /// The mailbox that takes mail for this address or this sub-address, by its own address. An
    /// alias is no mailbox, and one that only sends takes none.
    pub fn mailbox(&self, address: &Mailbox) -> Option<Mailbox> {
        let domain = address.domain()?;
        match self.named(address.local_part(), domain)? {
            Target::Mailbox(own) if !self.is_handed_over(domain) => Some(own),
            Target::Mailbox(_) | Target::SendOnly(_) => None,
            Target::Alias(_) | Target::Recipient => None,
        }
    }

    /// The question to a domain's own server about somebody who is not known here.
    fn asked(&self, address: &Mailbox) -> Option<Resolution> {
        let domain = self.canonical(address.domain()?);
        let gateway = self.gateway(domain).filter(|gateway| gateway.call_ahead)?;
        let is_unknown = self.named(address.local_part(), domain).is_none();
        let question =
            || Resolution::CallAhead { gateway: gateway.clone(), address: at(address, domain) };
        is_unknown.then(question)
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
        let canonical = self.canonical(domain);
        let gateway = self.gateway(canonical);
        let mut hand_over = || found.push(Destination::Gateway { address: at(address, canonical) });
        match self.entry(address.local_part(), domain) {
            None if gateway.is_some_and(|gateway| gateway.call_ahead) => hand_over(),
            None | Some(Target::SendOnly(_)) => {}
            Some(Target::Recipient) => hand_over(),
            Some(Target::Mailbox(_)) if gateway.is_some() => hand_over(),
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

    /// The mailbox or alias of a local part: itself, or what it is a sub-address of. Whether there
    /// are sub-addresses is for a server of the domain's own to say: of those whose mail goes there
    /// none is known.
    pub(crate) fn named(&self, local_part: &LocalPart, domain: &Domain) -> Option<Target<'_>> {
        let domain = self.canonical(domain);
        let declaration = self.domain(domain)?;
        let used = name(local_part);
        let (name, entry) = declaration.entry(&used)?;
        let is_itself = name == used;
        let is_kept = |target: &Target<'_>| {
            is_itself || declaration.gateway.is_none() || matches!(target, Target::Alias(_))
        };
        entry.target(name, domain).filter(is_kept)
    }
}

/// The same local part in another domain.
fn at(address: &Mailbox, domain: &Domain) -> Mailbox {
    Mailbox::new(address.local_part().clone(), Host::Domain(domain.clone()))
}

/// A mailbox's own address with the tag of the local part that led to it, if both fit.
fn with_tag(own: &Mailbox, used: &LocalPart) -> Mailbox {
    let Some(tag) = tag(used.as_str(), own.local_part().as_str()) else { return own.clone() };
    let tagged = format!("{}{tag}@{}", own.local_part(), own.host());
    Mailbox::parse(&tagged).unwrap_or_else(|_| own.clone())
}
