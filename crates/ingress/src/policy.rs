//! Who may send what to whom: decided from the domain table and the identity, nothing else.
//!
//! No network address is trusted. An address means what its grammar says: `%`, `!` and a second `@`
//! in a local part are characters of a name, never a route (RFC 5321 §2.3.11).

use domains::{Destination, Identity, Resolution, Table};
use mail_types::{ForwardPath, Host, Mailbox, ReversePath, TenantId};
use queue::NextHop;

use crate::replies::{self, Canned};

/// Where an accepted recipient's mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// At least one; no two alike.
    pub(crate) hops: Vec<(NextHop, Mailbox)>,
    /// Whose recipient it is, when it is a hosted one.
    pub(crate) tenant: Option<TenantId>,
    /// The largest message it takes, in octets.
    pub(crate) size_max: Option<u64>,
}

/// Whether an identity may use a reverse-path. Null is nobody's name, and what MUAs send receipts
/// with.
pub(crate) fn may_send_from(identity: &Identity, path: &ReversePath) -> bool {
    path.mailbox().is_none_or(|mailbox| identity.may_send_as(mailbox))
}

/// Where a recipient's mail goes, or why it is refused.
///
/// # Errors
/// The reply for an unknown recipient, or for one elsewhere when nobody is logged in. Both say that
/// the table lacks something: true only of a table that is the one in force.
pub(crate) fn route(
    table: &Table,
    path: &ForwardPath,
    identity: Option<&Identity>,
) -> Result<Route, Canned> {
    match table.resolve(path) {
        Resolution::Local(destinations) => Ok(local(table, path, destinations)),
        Resolution::Remote(host) => match (identity, path) {
            (Some(_), ForwardPath::Mailbox(mailbox)) => Ok(remote(&host, mailbox)),
            (None, _) | (_, ForwardPath::Postmaster) => Err(replies::NO_RELAY),
        },
        Resolution::UnknownRecipient => Err(replies::NO_SUCH_USER),
    }
}

fn local(table: &Table, path: &ForwardPath, destinations: Vec<Destination>) -> Route {
    let hops: Vec<_> = destinations.into_iter().filter_map(hop).collect();
    let domain = match path {
        ForwardPath::Mailbox(mailbox) => mailbox.domain(),
        ForwardPath::Postmaster => hops.first().and_then(|(_, mailbox)| mailbox.domain()),
    };
    Route {
        tenant: domain.and_then(|domain| table.tenant_of(domain)).cloned(),
        size_max: domain.and_then(|domain| table.max_message_size_bytes(domain)),
        hops,
    }
}

fn remote(host: &Host, mailbox: &Mailbox) -> Route {
    Route { hops: vec![(NextHop::smtp(host), mailbox.clone())], tenant: None, size_max: None }
}

fn hop(destination: Destination) -> Option<(NextHop, Mailbox)> {
    match destination {
        // A mailbox of ours always has a domain: the table refuses literals.
        Destination::Mailbox { address } => Some((NextHop::mailbox(address.domain()?), address)),
        Destination::Remote { address } => Some((NextHop::smtp(address.host()), address)),
    }
}
