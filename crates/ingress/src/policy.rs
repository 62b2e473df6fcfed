//! Who may send what to whom: decided from the domain table and the identity, nothing else.
//!
//! No network address is trusted. An address means what its grammar says: `%`, `!` and a second `@`
//! in a local part are characters of a name, never a route (RFC 5321 §2.3.11).

use domains::{Destination, FullMailboxes, Identity, OnFull, Resolution, Srs, Table};
use mail_types::{Domain, ForwardPath, Host, Mailbox, ReversePath, TenantId, Timestamp};
use queue::{Forward, HopKind, NextHop};

use crate::call_ahead::Question;
use crate::replies::{self, Canned};

/// Where an accepted recipient's mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// At least one; no two alike.
    pub(crate) hops: Vec<Hop>,
    /// Whose recipient it is, when it is a hosted one.
    pub(crate) tenant: Option<TenantId>,
    /// The largest message it takes, in octets.
    pub(crate) size_max: Option<u64>,
    /// What its own server has to say before it is accepted.
    pub(crate) question: Option<Question>,
}

/// One of the addresses that a recipient stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) next_hop: NextHop,
    pub(crate) address: Mailbox,
    /// When an alias of ours leads there, and it is not ours.
    pub(crate) forward: Option<Forward>,
}

/// Whether a domain's SPF record is to name us: it is declared here, and has no server of its own.
pub(crate) fn sends_for(table: &Table, domain: &Domain) -> bool {
    table.tenant_of(domain).is_some() && !table.is_handed_over(domain)
}

/// Whether an identity may use a reverse-path. Null is nobody's name, and what MUAs send receipts
/// with.
pub(crate) fn may_send_from(identity: &Identity, table: &Table, path: &ReversePath) -> bool {
    path.mailbox().is_none_or(|mailbox| identity.may_send_as(mailbox, table))
}

/// What a recipient is judged by.
pub(crate) struct Policy<'a> {
    pub(crate) table: &'a Table,
    /// Without it, forwarded mail keeps its sender's reverse-path.
    pub(crate) srs: Option<&'a Srs>,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) sender: &'a ReversePath,
    /// Octets of the message, as far as the client has said.
    pub(crate) size: Option<u64>,
    pub(crate) now: Timestamp,
}

impl Policy<'_> {
    /// Where a recipient's mail goes, or why it is refused.
    ///
    /// # Errors
    /// The reply for an unknown recipient, or for one elsewhere when nobody is logged in. Both say
    /// that the table lacks something: true only of a table that is the one in force.
    pub(crate) fn route(&self, path: &ForwardPath) -> Result<Route, Canned> {
        if let Some(sender) = self.forwarded_sender(path) {
            return self.bounce(path, sender);
        }
        match self.table.resolve(path) {
            Resolution::Local(destinations) => Ok(self.local(path, destinations)),
            Resolution::CallAhead { gateway, address } => {
                let destination = Destination::Gateway { address: address.clone() };
                let question = Some(Question { gateway, address });
                Ok(Route { question, ..self.local(path, vec![destination]) })
            }
            Resolution::Remote(host) => match (self.identity, path) {
                (Some(_), ForwardPath::Mailbox(mailbox)) => Ok(remote(&host, mailbox)),
                (None, _) | (_, ForwardPath::Postmaster) => Err(replies::NO_RELAY),
            },
            Resolution::UnknownRecipient => Err(replies::NO_SUCH_USER),
        }
    }

    /// A route whose mail somebody takes. If one of several addresses takes it, it is accepted, and
    /// waits for the full ones.
    ///
    /// # Errors
    /// Each address that it leads to is a mailbox that is full, or too full for the message. That
    /// one of them is refused for good is its owner's wish by the table: true only of a table that
    /// is the one in force.
    pub(crate) fn with_room(&self, route: Route, full: &FullMailboxes) -> Result<Route, Canned> {
        match self.no_room(&route, full) {
            Some(refusal) => Err(refusal),
            None => Ok(route),
        }
    }

    fn no_room(&self, route: &Route, full: &FullMailboxes) -> Option<Canned> {
        if full.is_empty() {
            return None;
        }
        // A route that leads nowhere leads to no full mailbox.
        let mut refusal = None;
        for hop in &route.hops {
            match (self.full_mailbox(hop, full)?, refusal) {
                (OnFull::Reject, None) => refusal = Some(replies::MAILBOX_FULL_FOR_GOOD),
                (OnFull::Reject, Some(_)) => {}
                (OnFull::Defer, _) => refusal = Some(replies::MAILBOX_FULL),
            }
        }
        refusal
    }

    /// What is to be said of a mailbox without room; `None` of whatever else a hop leads to.
    fn full_mailbox(&self, hop: &Hop, full: &FullMailboxes) -> Option<OnFull> {
        if hop.next_hop.kind() != HopKind::Mailbox {
            return None;
        }
        let storage = self.table.storage(&hop.address)?;
        let room = full.room_bytes(&storage.id)?;
        let is_full = room == 0 || self.size.is_some_and(|size| size > room);
        // Without a quota of ours it is a mailbox server's word, or an old one of ours: it passes.
        let on_full = storage.quota_bytes.map_or(OnFull::Defer, |_| storage.on_full);
        is_full.then_some(on_full)
    }

    /// Whom a bounce is for, if it is one of mail that we forwarded. Others than bounces have no
    /// business there.
    fn forwarded_sender(&self, path: &ForwardPath) -> Option<Mailbox> {
        let ForwardPath::Mailbox(address) = path else { return None };
        let srs = self.srs.filter(|_| self.sender.is_null())?;
        self.table.forwarded_sender(srs, address, self.now)
    }

    /// Back to the sender, with the forwarding domain's means.
    fn bounce(&self, path: &ForwardPath, sender: Mailbox) -> Result<Route, Canned> {
        let theirs = self.local(path, Vec::new());
        let to_sender = ForwardPath::Mailbox(sender.clone());
        let route = match self.table.resolve(&to_sender) {
            Resolution::Local(destinations) => self.local(&to_sender, destinations),
            // He has written from there, and of a bounce no other one comes back.
            Resolution::CallAhead { address, .. } => {
                self.local(&to_sender, vec![Destination::Gateway { address }])
            }
            Resolution::Remote(host) => remote(&host, &sender),
            Resolution::UnknownRecipient => return Err(replies::NO_SUCH_USER),
        };
        Ok(Route { hops: route.hops, ..theirs })
    }

    fn local(&self, path: &ForwardPath, destinations: Vec<Destination>) -> Route {
        let named = match path {
            ForwardPath::Mailbox(mailbox) => Some(mailbox),
            ForwardPath::Postmaster => self.table.postmaster(),
        };
        let domain = named.and_then(Mailbox::domain);
        let hop = |destination| self.hop(destination, named);
        Route {
            tenant: domain.and_then(|domain| self.table.tenant_of(domain)).cloned(),
            size_max: domain.and_then(|domain| self.table.max_message_size_bytes(domain)),
            hops: destinations.into_iter().filter_map(hop).collect(),
            question: None,
        }
    }

    fn hop(&self, destination: Destination, named: Option<&Mailbox>) -> Option<Hop> {
        match destination {
            Destination::Mailbox { address } => {
                // A mailbox of ours always has a domain: the table refuses literals.
                let next_hop = NextHop::mailbox(address.domain()?);
                Some(Hop { next_hop, address, forward: None })
            }
            // Its server is the next one for mail of the domain, as we are for others: nothing is
            // forwarded.
            Destination::Gateway { address } => {
                let next_hop = NextHop::smtp(address.host());
                Some(Hop { next_hop, address, forward: None })
            }
            Destination::Remote { address } => {
                // The postmaster of `<postmaster>` may be elsewhere: he is no alias of ours.
                let is_ours = |domain| self.table.is_hosted(domain);
                let alias = named.filter(|alias| alias.domain().is_some_and(is_ours));
                let forward = alias.map(|alias| self.forward(alias));
                Some(Hop { next_hop: NextHop::smtp(address.host()), address, forward })
            }
        }
    }

    fn forward(&self, alias: &Mailbox) -> Forward {
        let rewritten = self.sender.mailbox().and_then(|sender| self.rewritten(sender, alias));
        let reverse_path = match rewritten {
            Some(mailbox) => ReversePath::Mailbox(mailbox),
            None => self.sender.clone(),
        };
        Forward { reverse_path, delivered_to: alias.clone() }
    }

    /// Another's domain does not name us among those who send for it. Ours do: but who has not
    /// logged in may be anybody.
    fn rewritten(&self, sender: &Mailbox, alias: &Mailbox) -> Option<Mailbox> {
        let is_ours = sender.domain().is_some_and(|domain| sends_for(self.table, domain));
        let srs = self.srs.filter(|_| !is_ours || self.identity.is_none())?;
        srs.forward(sender, alias.domain()?, self.now)
    }
}

fn remote(host: &Host, mailbox: &Mailbox) -> Route {
    let hop = Hop { next_hop: NextHop::smtp(host), address: mailbox.clone(), forward: None };
    Route { hops: vec![hop], tenant: None, size_max: None, question: None }
}
