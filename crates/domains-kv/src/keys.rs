//! What keys are called.

use domains::{Keeping, Row};
use mail_types::{Domain, Mailbox};
use nats::token;

pub(crate) const BUCKET: &str = "domains";
pub(crate) const MARKER: &str = "marker";
/// Begins the keys by which writers claim the bucket.
pub(crate) const WRITER: &str = "writer.";

/// The key of one of a writer's lanes.
pub(crate) fn of_lane(lane: usize) -> String {
    format!("{WRITER}{lane}")
}

/// The domain and the name that a row's key is of: of the domain itself without a name.
pub(crate) fn parse(key: &str) -> Option<(Domain, Option<String>)> {
    let mut tokens = key.split('.');
    let (kind, domain) = (tokens.next()?, nats::name(tokens.next()?)?);
    let domain = Domain::parse(&domain).ok()?;
    match (kind, tokens.next(), tokens.next()) {
        ("d", None, None) => Some((domain, None)),
        ("e", Some(name), None) => Some((domain, Some(nats::name(name)?))),
        _ => None,
    }
}

/// The key of a mailbox's row.
pub(crate) fn of_mailbox(address: &Mailbox) -> Option<String> {
    let (address, keeping) = (address.clone(), Keeping::default());
    of_row(&Row::Mailbox { address, send_only: false, keeping, login: None })
}

/// The key of a row; no two rows of a table have the same.
pub(crate) fn of_row(row: &Row) -> Option<String> {
    let domain = token(row.domain()?.as_str());
    Some(match row.name() {
        None => format!("d.{domain}"),
        Some(name) => format!("e.{domain}.{}", token(&name)),
    })
}
