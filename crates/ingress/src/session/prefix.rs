//! The end of the content: what the header fields must be, and what we write in front of them.

use std::net::SocketAddr;

use bytes::Bytes;
use mail_types::{ForwardPath, Host, Mailbox, QueueId, Timestamp};
use message::{from, header, trace};
use queue::Head;

use super::Login;
use super::transaction::Transaction;
use crate::replies::{self, Canned};
use crate::shared::Shared;

/// A message that is complete, and where it came from.
pub(super) struct Examined<'a> {
    pub(super) shared: &'a Shared,
    /// Our name.
    pub(super) host: &'a Host,
    pub(super) login: Option<&'a Login>,
    pub(super) helo: &'a str,
    pub(super) peer: SocketAddr,
    pub(super) tls: Option<&'a str>,
    pub(super) certificate: Option<&'a str>,
    pub(super) transaction: &'a Transaction,
    pub(super) id: QueueId,
    pub(super) arrival: Timestamp,
}

/// Refuses what loops or claims a foreign From; otherwise gives what stands before the body.
pub(super) fn examine(context: &Examined<'_>, header: &[u8]) -> Result<Head, Canned> {
    if header::count(header, "Received") >= context.shared.limits.received_max {
        return Err(replies::LOOP);
    }
    if !context.transaction.smtputf8() && !header.is_ascii() {
        // As Postfix does: mail with raw 8-bit header fields is old, common and readable.
        context.shared.metrics.tolerated("raw_8bit_header");
    }
    let mut prefix = received(context);
    let Some(login) = context.login else {
        return Ok(Head { prefix: prefix.into(), header: Bytes::copy_from_slice(header) });
    };
    check_from(login, header)?;
    // RFC 6409 §8: what a message lacks.
    if !header::has(header, "Date") {
        prefix.push_str(&trace::date(context.arrival));
    }
    if !header::has(header, "Message-ID") {
        prefix.push_str(&trace::message_id(context.id, context.host));
    }
    // RFC 5321 §4.4: only final delivery writes it, and a user is not that.
    let header = header::without(header, "Return-Path");
    Ok(Head { prefix: prefix.into(), header: header.into() })
}

/// Every address in From is one of the login's own.
fn check_from(login: &Login, header: &[u8]) -> Result<(), Canned> {
    let from = from::mailboxes(header).map_err(|_| replies::BAD_FROM)?;
    if from.iter().all(|mailbox| login.identity.may_send_as(mailbox, &login.table)) {
        Ok(())
    } else {
        Err(replies::NOT_YOUR_FROM)
    }
}

fn received(context: &Examined<'_>) -> String {
    let recipient = context.transaction.only_recipient().and_then(|path| match path {
        ForwardPath::Mailbox(mailbox) => Some(mailbox),
        ForwardPath::Postmaster => None,
    });
    // Without SMTPUTF8 a trace field stays ASCII (RFC 6531 §3.7.3).
    let showable = |mailbox: &&Mailbox| context.transaction.smtputf8() || mailbox.is_ascii();
    let protocol = context.transaction.protocol().to_string();
    trace::Received {
        helo: context.helo,
        client: context.peer,
        by: context.host,
        protocol: &protocol,
        id: context.id,
        tls: context.tls,
        client_certificate: context.certificate,
        recipient: recipient.filter(showable),
        at: context.arrival,
    }
    .field()
}
