//! The log lines of the role: one event for each group of recipients with the same fate and reply.

use outcome::{Effort, Fate, News, Plan};
use queue::Job;
use runtime::trace;
use tracing::{info, warn};

use crate::attempt::Delays;
use crate::metrics::{Metrics, Result};

/// Recipients that a line names; of more, it gives the number.
const NAMED_MAX: usize = 20;

/// What an attempt adds to a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempted<'a> {
    pub(crate) effort: &'a Effort,
    pub(crate) delays: Delays,
}

/// Logs and counts what is new about a job.
///
/// The span tells the worst of it.
pub(crate) fn news(job: &Job, plan: &Plan, attempted: Option<Attempted<'_>>, metrics: &Metrics) {
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
        line(job, group, first, attempted);
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

/// Texts of others are values of type `str`, which the human form quotes: a reply cannot pretend
/// to be the fields after it.
fn line(job: &Job, group: &[News], first: &News, attempted: Option<Attempted<'_>>) {
    let relay = attempted.and_then(|attempted| attempted.effort.relay.as_deref());
    let delays = attempted.map(|attempted| attempted.delays).unwrap_or_default();
    info!(
        event = event_name(first.fate),
        id = %job.id,
        trace_id = job.envelope.trace_id(),
        sender = job.envelope.reverse_path.to_string(),
        sent_as = job.forward.as_ref().map(|forward| forward.reverse_path.to_string()),
        recipients = addresses(job, group.iter().map(|news| news.recipient)),
        count = group.len(),
        tenant = %job.envelope.tenant,
        next_hop = job.next_hop.key(),
        relay = relay.unwrap_or("none"),
        tls = attempted.and_then(|attempted| attempted.effort.tls.as_deref()).unwrap_or("none"),
        attempt = attempted.map_or(0, |_| job.attempts + 1),
        size = job.size,
        delay_queued_ms = delays.queued_ms,
        delay_connect_ms = delays.connect_ms,
        delay_transmit_ms = delays.transmit_ms,
        code = first.report.reply.code.value(),
        status = %first.report.reply.status_or_general(),
        reply = first.report.reply.to_string(),
    );
}

fn event_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Delivered => "delivered",
        Fate::Deferred => "deferred",
        Fate::Bounced => "bounced",
        Fate::Expired => "expired",
    }
}

/// Addresses hold no controls: the type refuses them.
fn addresses(job: &Job, recipients: impl Iterator<Item = u32>) -> String {
    let mut text = String::new();
    for index in recipients.take(NAMED_MAX) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&job.recipients[index as usize].recipient.address.to_string());
    }
    text
}
