//! Which jobs a filter means, and a job in one line of a list.

use mail_types::{ReversePath, Timestamp};

use crate::model::{Filter, Job, JobSummary};
use crate::schedule::Glance;

impl Filter {
    /// Whether a job may match, by what a schedule knows of it: cheap, before its records are
    /// read.
    pub fn may_match(&self, glance: &Glance<'_>, now: Timestamp) -> bool {
        let Glance { id, tenant, next_hop, phase } = *glance;
        self.message.is_none_or(|message| message == id.message)
            && self.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
            && self.phase.is_none_or(|wanted| wanted == phase)
            && self.older_than.is_none_or(|age| now.since(id.message.arrival()) > age)
            && self.recipient_domain.as_ref().is_none_or(|it| next_hop.key() == it.as_str())
    }

    pub fn matches(&self, job: &Job, now: Timestamp) -> bool {
        let Job { id, next_hop, phase, .. } = job;
        let tenant = &job.envelope.tenant;
        self.may_match(&Glance { id: *id, tenant, next_hop, phase: *phase }, now)
            && self.sender.as_ref().is_none_or(|sender| is_from(&job.envelope.reverse_path, sender))
            && self.recipient_domain.as_ref().is_none_or(|domain| {
                let is_there =
                    |address: &mail_types::Mailbox| address.host().domain() == Some(domain);
                job.recipients.iter().any(|state| is_there(&state.recipient.address))
            })
    }
}

/// Whether `wanted` is the reverse-path, or `@` and its domain. Local parts are compared as they
/// are, domains without regard to case.
fn is_from(path: &ReversePath, wanted: &str) -> bool {
    let Some(mailbox) = path.mailbox() else { return wanted.is_empty() };
    if let Some(domain) = wanted.strip_prefix('@') {
        return mailbox.host().to_string().eq_ignore_ascii_case(domain);
    }
    ReversePath::parse(wanted).is_ok_and(|wanted| wanted == *path)
}

impl Job {
    /// The job in a list.
    pub fn summary(&self) -> JobSummary {
        let pending = || self.pending().map(|(_, state)| state);
        let last = self.recipients.iter().filter_map(|state| state.last.as_ref());
        let last = last.max_by_key(|report| report.at);
        JobSummary {
            id: self.id,
            phase: self.phase,
            tenant: self.envelope.tenant.clone(),
            sender: self
                .envelope
                .reverse_path
                .mailbox()
                .map(ToString::to_string)
                .unwrap_or_default(),
            recipients: pending()
                .take(JobSummary::RECIPIENTS_SHOWN)
                .map(|state| state.recipient.address.to_string())
                .collect(),
            recipients_pending: u32::try_from(pending().count()).unwrap_or(u32::MAX),
            next_hop: self.next_hop.to_string(),
            size: self.size,
            arrival: self.envelope.arrival,
            attempts: self.attempts,
            next_attempt: self.next_attempt,
            last_reply: last.map(|report| report.reply.to_string()),
        }
    }
}
