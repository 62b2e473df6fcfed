//! The log lines of the role: one for each recipient stored in a Maildir, one for each group of
//! others with the same fate and reply.

use outcome::{Fate, News, Plan};
use queue::Job;
use runtime::trace;
use tracing::{info, warn};

use crate::metrics::{Metrics, Result};

/// Recipients that a line names; of more, it gives the number.
const NAMED_MAX: usize = 20;

/// A copy in its mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) recipient: u32,
    pub(crate) mailbox: String,
    /// `None` for the inbox.
    pub(crate) folder: Option<String>,
    pub(crate) file: String,
    pub(crate) size: u64,
    /// A repeated job found it there.
    pub(crate) is_repeat: bool,
}

/// Logs a copy as soon as it is durable: what comes after may fail, and happens again.
pub(crate) fn stored(job: &Job, stored: &Stored, took_ms: u64) {
    let delay = runtime::clock::now().since(job.envelope.arrival);
    info!(
        event = "stored",
        id = %job.id,
        trace_id = job.envelope.trace_id(),
        sender = job.envelope.reverse_path.to_string(),
        recipient = job.recipients[stored.recipient as usize].recipient.address.to_string(),
        tenant = %job.envelope.tenant,
        mailbox = stored.mailbox,
        folder = stored.folder,
        file = stored.file,
        size = stored.size,
        repeat = stored.is_repeat,
        attempt = job.attempts + 1,
        delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        took_ms,
    );
}

/// Logs and counts what is new about a job.
///
/// `server` is whom it was handed to; without one, copies have been logged by [`stored`]. The span
/// tells the worst of it.
pub(crate) fn news(job: &Job, plan: &Plan, server: Option<&str>, metrics: &Metrics) {
    let mut news = plan.news();
    if let Some(worst) = news.iter().map(|news| news.fate).max() {
        trace::result(event_name(worst), worst != Fate::Delivered);
    }
    while let Some((first, _)) = news.split_first() {
        let same = |other: &News| other.fate == first.fate && other.report == first.report;
        let end = news.iter().position(|other| !same(other)).unwrap_or(news.len());
        let (group, rest) = news.split_at(end);
        let result = Result { result: event_name(first.fate) };
        metrics.recipients.get_or_create(&result).inc_by(group.len() as u64);
        if first.fate != Fate::Delivered || server.is_some() {
            line(job, group, first, server.unwrap_or("maildir"));
        }
        news = rest;
    }
    if !plan.double_bounces().is_empty() {
        metrics.double_bounces.inc_by(plan.double_bounces().len() as u64);
        let recipients = addresses(job, plan.double_bounces().iter().copied());
        let sender = job.envelope.reverse_path.to_string();
        let (id, trace_id) = (job.id, job.envelope.trace_id());
        warn!(event = "double_bounce", %id, trace_id, sender, recipients, "nobody to tell");
    }
}

/// Texts of others are values of type `str`, which the human form quotes: an address cannot pretend
/// to be the fields after it.
fn line(job: &Job, group: &[News], first: &News, relay: &str) {
    info!(
        event = event_name(first.fate),
        id = %job.id,
        trace_id = job.envelope.trace_id(),
        sender = job.envelope.reverse_path.to_string(),
        recipients = addresses(job, group.iter().map(|news| news.recipient)),
        count = group.len(),
        tenant = %job.envelope.tenant,
        next_hop = job.next_hop.key(),
        relay,
        size = job.size,
        code = first.report.reply.code.value(),
        status = %first.report.reply.status_or_general(),
        reply = first.report.reply.to_string(),
    );
}

fn event_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Delivered => "stored",
        Fate::Deferred => "deferred",
        Fate::Bounced => "bounced",
        Fate::Expired => "expired",
    }
}

/// Addresses hold no controls: the type refuses them.
fn addresses(job: &Job, recipients: impl Iterator<Item = u32>) -> String {
    let named = recipients.take(NAMED_MAX);
    let named = named.map(|n| job.recipients[n as usize].recipient.address.to_string());
    named.collect::<Vec<_>>().join(" ")
}
