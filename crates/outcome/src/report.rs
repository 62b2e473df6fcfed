//! DSNs as follow-ups of a settlement.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mail_types::{
    EnhancedStatus, Envelope, Host, Mailbox, Notify, Origin, Recipient, ReversePath, Timestamp,
};
use message::dsn;
use queue::{FollowUp, FollowUpKind, Head, Job, NewJob, Report};
use rand::{Rng, RngExt};
use retry::Policy;

use crate::original::Original;

/// Where mail to an address goes: a mailbox of ours, another system, nowhere.
#[derive(Clone)]
pub struct Route(Arc<JobsTo>);

type JobsTo = dyn Fn(&Mailbox) -> Vec<NewJob> + Send + Sync;

impl Route {
    /// `jobs` says what is to be queued for a message to an address; nothing means that the
    /// address is one of ours and does not exist.
    pub fn new(jobs: impl Fn(&Mailbox) -> Vec<NewJob> + Send + Sync + 'static) -> Self {
        Self(Arc::new(jobs))
    }

    /// The jobs of a DSN, of which nobody wants a DSN in turn.
    pub(crate) fn jobs_to(&self, sender: &Mailbox) -> Vec<NewJob> {
        let mut jobs = (self.0)(sender);
        for recipient in jobs.iter_mut().flat_map(|job| &mut job.recipients) {
            *recipient = Recipient {
                notify: Some(Notify::Never),
                ..Recipient::new(recipient.address.clone())
            };
        }
        jobs
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Route(…)")
    }
}

/// A DSN to be composed.
#[derive(Debug)]
pub(crate) struct Dsn {
    pub(crate) kind: FollowUpKind,
    pub(crate) recipients: Vec<DsnRecipient>,
    pub(crate) jobs: Vec<NewJob>,
    pub(crate) at: Timestamp,
    /// Until when what is delayed is tried.
    pub(crate) expires: Timestamp,
}

/// What a DSN says of a recipient.
#[derive(Debug)]
pub(crate) struct DsnRecipient {
    pub(crate) recipient: u32,
    pub(crate) action: dsn::Action,
    pub(crate) status: EnhancedStatus,
    pub(crate) report: Report,
}

/// Composes a DSN to `sender`.
pub(crate) fn compose(
    sources: &Sources<'_>,
    sender: &Mailbox,
    dsn: Dsn,
    rng: &mut impl Rng,
) -> FollowUp {
    let Sources { host, policy, job, original } = *sources;
    let headers = original.headers();
    let recipients: Vec<dsn::RecipientReport> =
        dsn.recipients.into_iter().map(|told| told.report(job, dsn.expires)).collect();
    let composed = dsn::compose(&dsn::Report {
        reporting_mta: host,
        to: sender,
        envid: job.envelope.envid.as_ref(),
        arrival: job.envelope.arrival,
        received_from: match &job.envelope.origin {
            Origin::Smtp(origin) => Some(&origin.helo),
            Origin::Internal => None,
        },
        message: job.id.message,
        recipients: &recipients,
        returned: match original {
            Original::Full(content) if dsn.kind == FollowUpKind::FailedDsn => {
                dsn::Returned::Full(content)
            }
            Original::Full(_) | Original::Headers(_) => dsn::Returned::Headers(&headers),
        },
        date: dsn.at,
        random: rng.random(),
    });
    FollowUp {
        kind: dsn.kind,
        envelope: Envelope {
            reverse_path: ReversePath::Null,
            envid: None,
            ret: None,
            body: composed.body_type,
            smtputf8: composed.smtputf8,
            arrival: dsn.at,
            expires: policy.expires(&ReversePath::Null, dsn.at),
            tenant: job.envelope.tenant.clone(),
            identity: None,
            origin: Origin::Internal,
            trace_parent: job.envelope.trace_parent.clone(),
        },
        head: Head { prefix: Bytes::new(), header: composed.header.into() },
        body: composed.body.into(),
        jobs: dsn.jobs,
    }
}

/// What every DSN of a settlement is made from.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// The Reporting-MTA.
    pub(crate) host: &'a Host,
    /// How long DSNs are kept.
    pub(crate) policy: &'a Policy,
    pub(crate) job: &'a Job,
    pub(crate) original: &'a Original,
}

impl DsnRecipient {
    fn report(self, job: &Job, expires: Timestamp) -> dsn::RecipientReport {
        let recipient = &job.recipients[self.recipient as usize].recipient;
        let delayed = self.action == dsn::Action::Delayed;
        dsn::RecipientReport {
            final_recipient: recipient.address.clone(),
            original: recipient.orcpt.clone(),
            action: self.action,
            status: self.status,
            remote: self.report.remote.map(String::from),
            reply: Some(self.report.reply),
            last_attempt: Some(self.report.at),
            will_retry_until: delayed.then_some(expires),
        }
    }
}
