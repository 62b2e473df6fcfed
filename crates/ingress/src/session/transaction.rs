//! An open transaction: the envelope as it grows, and the content as it comes.

use std::collections::HashSet;

use bytes::Bytes;
use domains::{Identity, Table};
use mail_types::{
    Domain, Envelope, ForwardPath, Mailbox, Origin, OriginalRecipient, QueueId, Recipient,
    ReversePath, SmtpOrigin, TenantId, Timestamp,
};
use queue::{Draft, NewJob, NextHop};
use senders::{Refusal, Tally};
use smtp::{MailCommand, Protocol, RcptCommand};
use tracing::Span;

use super::forwards;
use super::header::HeaderBlock;
use crate::budget::Share;
use crate::policy::{self, Hop, Route};

/// From MAIL to the end of the content.
pub(super) struct Transaction {
    mail: MailCommand,
    protocol: Protocol,
    jobs: Vec<NewJob>,
    seen: HashSet<(NextHop, Mailbox)>,
    /// The forward-path, when there is exactly one: what Received may show.
    only: Option<ForwardPath>,
    recipients: u32,
    tenant: Option<TenantId>,
    size_max: Option<u64>,
    /// Of whoever logged in: recipients that count once the message is accepted.
    tally: Option<Tally>,
    pub(super) span: Span,
    /// W3C `traceparent` of what follows from the transaction.
    trace_parent: String,
    pub(super) content: Option<Content>,
}

/// Content on its way into the store.
pub(super) struct Content {
    pub(super) draft: Box<dyn Draft>,
    pub(super) header: HeaderBlock,
    pub(super) octets: u64,
    pub(super) share: Share,
    pub(super) arrival: Timestamp,
}

/// Whom the session's messages come from.
pub(super) struct Source<'a> {
    pub(super) origin: SmtpOrigin,
    pub(super) identity: Option<&'a Identity>,
}

impl Transaction {
    pub(super) fn new(
        mail: MailCommand,
        protocol: Protocol,
        span: Span,
        tally: Option<Tally>,
    ) -> Self {
        Self {
            mail,
            protocol,
            jobs: Vec::new(),
            seen: HashSet::new(),
            only: None,
            recipients: 0,
            tenant: None,
            size_max: None,
            tally,
            trace_parent: runtime::trace::trace_parent(&span),
            span,
            content: None,
        }
    }

    /// Counts a recipient of whoever logged in, before it is accepted.
    pub(super) async fn count_recipient(&mut self, now: Timestamp) -> Result<(), Refusal> {
        match &mut self.tally {
            Some(tally) => tally.take(now).await,
            None => Ok(()),
        }
    }

    /// The message is accepted: its recipients stay counted.
    pub(super) fn keep_count(&mut self) {
        self.tally.iter_mut().for_each(Tally::keep);
    }

    /// Adds an accepted recipient; one that is there already is not delivered to twice.
    pub(super) fn add(&mut self, rcpt: RcptCommand, route: Route) {
        self.recipients += 1;
        self.tenant = self.tenant.take().or(route.tenant);
        self.size_max = self.size_max.into_iter().chain(route.size_max).min();
        for Hop { next_hop, address, forward } in route.hops {
            if !self.seen.insert((next_hop.clone(), address.clone())) {
                continue;
            }
            let orcpt = original(&rcpt, &address);
            let recipient = Recipient { address, notify: rcpt.notify, orcpt };
            let is_alike = |job: &&mut NewJob| job.next_hop == next_hop && job.forward == forward;
            match self.jobs.iter_mut().find(is_alike) {
                Some(job) => job.recipients.push(recipient),
                None => {
                    self.jobs.push(NewJob { next_hop, recipients: vec![recipient], forward });
                }
            }
        }
        self.only = (self.recipients == 1).then_some(rcpt.forward_path);
    }

    pub(super) fn reverse_path(&self) -> &ReversePath {
        &self.mail.reverse_path
    }

    pub(super) fn trace_id(&self) -> Option<&str> {
        mail_types::trace_id(&self.trace_parent)
    }

    pub(super) fn declared_size(&self) -> Option<u64> {
        self.mail.size
    }

    /// The smallest of the recipients' own limits, in octets.
    pub(super) fn size_max(&self) -> Option<u64> {
        self.size_max
    }

    pub(super) fn smtputf8(&self) -> bool {
        self.mail.smtputf8
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn only_recipient(&self) -> Option<&ForwardPath> {
        self.only.as_ref()
    }

    pub(super) fn recipients(&self) -> u32 {
        self.recipients
    }

    pub(super) fn jobs(&self) -> &[NewJob] {
        &self.jobs
    }

    /// Sees to what the message itself says about forwarding it. Returns how many jobs would have
    /// passed an alias again, and are gone. `stranger` is the table to know our domains by, when
    /// nobody has logged in.
    pub(super) fn settle_forwards(&mut self, header: &[u8], stranger: Option<&Table>) -> usize {
        if self.jobs.iter().all(|job| job.forward.is_none()) {
            return 0;
        }
        let cut = forwards::cut_loops(&mut self.jobs, header);
        // Of one who has, From is bound to the login.
        if let Some(table) = stranger {
            let is_ours = |domain: &Domain| policy::sends_for(table, domain);
            let sender = &self.mail.reverse_path;
            forwards::vouch_for_no_stranger(&mut self.jobs, sender, header, is_ours);
        }
        cut
    }

    pub(super) fn id(&self) -> Option<QueueId> {
        self.content.as_ref().map(Content::id)
    }

    pub(super) fn octets(&self) -> u64 {
        self.content.as_ref().map_or(0, |content| content.octets)
    }

    pub(super) fn envelope(
        &self,
        source: Source<'_>,
        arrival: Timestamp,
        expires: Timestamp,
    ) -> Envelope {
        let theirs = source.identity.map(Identity::tenant).or(self.tenant.as_ref());
        Envelope {
            reverse_path: self.mail.reverse_path.clone(),
            envid: self.mail.envid.clone(),
            ret: self.mail.ret,
            body: self.mail.body,
            smtputf8: self.mail.smtputf8,
            arrival,
            expires,
            tenant: theirs.cloned().unwrap_or_else(|| TenantId::new("default")),
            identity: source.identity.map(|identity| identity.login().to_owned()),
            origin: Origin::Smtp(source.origin),
            trace_parent: Some(self.trace_parent.clone()),
        }
    }
}

impl Content {
    /// Keeps header fields, passes body on.
    pub(super) async fn take(&mut self, octets: Bytes) -> Result<(), ContentError> {
        self.octets += octets.len() as u64;
        self.share.grow(self.octets).await.map_err(|_| ContentError::NoMemory)?;
        let body = self.header.take(octets).map_err(|_| ContentError::HeaderTooLarge)?;
        if body.is_empty() {
            return Ok(());
        }
        self.draft.write(body).await.map_err(ContentError::Store)
    }

    pub(super) fn id(&self) -> QueueId {
        self.draft.id()
    }
}

/// Why content is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    #[error("no memory for content")]
    NoMemory,
    #[error("the header block is too large")]
    HeaderTooLarge,
    #[error("the store did not take it")]
    Store(#[source] queue::AcceptError),
}

/// What DSNs call the recipient: as the sender said, or the name before aliases
/// (RFC 3461 §5.2.3, RFC 6533 §4).
fn original(rcpt: &RcptCommand, address: &Mailbox) -> Option<OriginalRecipient> {
    if rcpt.orcpt.is_some() {
        return rcpt.orcpt.clone();
    }
    let ForwardPath::Mailbox(named) = &rcpt.forward_path else { return None };
    if named == address {
        return None;
    }
    let addr_type = if named.is_ascii() { "rfc822" } else { "utf-8" };
    OriginalRecipient::new(addr_type, named.to_string()).ok()
}
