//! What a session, or its end, means for the recipients of a message.
//!
//! Three kinds are kept apart: the peer refuses (bounce), it is not well (defer), we are not well
//! (defer, never a bounce).

use std::iter;

use mail_types::{EnhancedStatus, Reply, ReplyCode, Timestamp};
use outcome::{Delivery, Outcome, Verdict};
use queue::{Report, Wait};
use smtp::client::{RecipientResult, SessionError, Step};

/// Why a message was not offered, or not in whole, although there was a session.
#[derive(Debug, thiserror::Error)]
pub enum MessageFailure {
    /// RFC 6531 §3.2.
    #[error("{0} does not accept internationalised addresses or headers (SMTPUTF8)")]
    NeedsSmtputf8(String),
    /// RFC 1870 §6.1.
    #[error("the message has {size} octets, more than {host} accepts")]
    TooLarge { host: String, size: u64 },
    /// The queue cannot read the content now.
    #[error("the message cannot be read from the queue")]
    ContentUnavailable,
}

impl MessageFailure {
    /// What it means for all recipients.
    pub fn outcome(&self, at: Timestamp) -> Outcome {
        let ours = |code, status| {
            let reply = Reply::new(ReplyCode::new(code), status, self.to_string());
            Report { at, remote: None, reply }
        };
        match self {
            Self::NeedsSmtputf8(_) => {
                Outcome::Bounced { report: ours(550, EnhancedStatus::new(5, 6, 7)) }
            }
            Self::TooLarge { .. } => {
                Outcome::Bounced { report: ours(552, EnhancedStatus::new(5, 3, 4)) }
            }
            Self::ContentUnavailable => Outcome::Deferred {
                report: ours(451, EnhancedStatus::new(4, 3, 0)),
                waiting_for: Wait::Time,
            },
        }
    }
}

/// Turns the answers to `recipients` into verdicts; beside them, those that have none and are to be
/// tried again at once.
pub fn verdicts(
    host: &str,
    recipients: Vec<u32>,
    results: Vec<RecipientResult>,
    at: Timestamp,
    delivery: Delivery,
) -> (Vec<Verdict>, Vec<u32>) {
    let is_accepted = |result: &&RecipientResult| matches!(result, RecipientResult::Accepted(_));
    let accepted = results.iter().filter(is_accepted).count();
    let results = results.into_iter().chain(iter::repeat(RecipientResult::Unanswered));
    let (mut verdicts, mut open) = (Vec::new(), Vec::new());
    for (recipient, result) in recipients.into_iter().zip(results) {
        match recipient_outcome(host, result, accepted, at, delivery) {
            Some(outcome) => verdicts.push(Verdict { recipient, outcome }),
            None => open.push(recipient),
        }
    }
    (verdicts, open)
}

/// What a reply about a recipient means; `None` when it is to be tried again at once, in the next
/// transaction. `accepted`: how many recipients of the transaction were accepted.
fn recipient_outcome(
    host: &str,
    result: RecipientResult,
    accepted: usize,
    at: Timestamp,
    delivery: Delivery,
) -> Option<Outcome> {
    let report = |reply| Report { at, remote: Some(host.into()), reply };
    match result {
        RecipientResult::Unanswered => None,
        RecipientResult::Accepted(reply) => {
            Some(Outcome::Delivered { report: report(reply), delivery })
        }
        RecipientResult::Refused { step, reply } if too_many_recipients(step, &reply) => {
            let deferred = || deferred(report(as_transient(&reply)));
            (accepted == 0).then(deferred)
        }
        RecipientResult::Refused { step, reply }
            if is_about_us(step, &reply) || knows_no_bdat(step, &reply) =>
        {
            Some(deferred(report(as_transient(&reply))))
        }
        RecipientResult::Refused { reply, .. } if reply.is_permanent() => {
            Some(Outcome::Bounced { report: report(reply) })
        }
        RecipientResult::Refused { reply, .. } => Some(deferred(report(reply))),
    }
}

/// Whether a session that ended at `step` may have left the message with the peer.
pub fn may_have_taken(step: Step) -> bool {
    match step {
        Step::Content | Step::FinalDot | Step::Bdat => true,
        Step::Greeting | Step::Hello | Step::Lhlo | Step::StartTls | Step::Auth => false,
        Step::Idle | Step::Reset | Step::Mail | Step::Rcpt | Step::Data | Step::Quit => false,
    }
}

/// What the end of a session means for recipients that it left unanswered.
pub fn unanswered_outcome(host: &str, error: &SessionError, at: Timestamp) -> Outcome {
    deferred(session_report(host, error, at))
}

fn deferred(report: Report) -> Outcome {
    Outcome::Deferred { report, waiting_for: Wait::Time }
}

/// `452`, or `552` of old servers, without a detail that says otherwise
/// (RFC 5321 §4.5.3.1.10).
fn too_many_recipients(step: Step, reply: &Reply) -> bool {
    let code = matches!(reply.code.value(), 452 | 552);
    let detail = reply.status.is_none_or(|status| (status.subject(), status.detail()) == (5, 3));
    step == Step::Rcpt && code && detail
}

/// Refusals that our configuration causes: no TLS, no or wrong credentials (RFC 4954 §6).
fn is_about_us(step: Step, reply: &Reply) -> bool {
    step == Step::Mail && matches!(reply.code.value(), 530 | 534 | 535 | 538)
}

/// BDAT was offered and is not known, by what stands before the host perhaps. The next attempt
/// does without.
fn knows_no_bdat(step: Step, reply: &Reply) -> bool {
    step == Step::Bdat && matches!(reply.code.value(), 500..=504)
}

/// A peer's permanent reply to something that is not the message's fault: the text stays, the
/// class does not.
pub fn as_transient(reply: &Reply) -> Reply {
    let status = reply.status_or_general().with_class(4);
    Reply::new(ReplyCode::new(451), status, format!("{} {}", reply.code, reply.text))
}

/// What is said of a session that ended before its time.
pub fn session_report(host: &str, error: &SessionError, at: Timestamp) -> Report {
    let said = |reply: &Reply| {
        let reply = if reply.is_transient() { reply.clone() } else { as_transient(reply) };
        Report { at, remote: Some(host.into()), reply }
    };
    let status = match error {
        SessionError::Closing { reply, .. } | SessionError::Refused { reply, .. } => {
            return said(reply);
        }
        SessionError::Protocol { .. } => EnhancedStatus::new(4, 5, 0),
        SessionError::Disconnected(_) | SessionError::TimedOut(_) => EnhancedStatus::new(4, 4, 2),
    };
    let twice = match error.step() {
        Step::FinalDot | Step::Bdat => "; the message may be delivered twice",
        Step::Greeting | Step::Hello | Step::Lhlo | Step::StartTls | Step::Auth => "",
        Step::Idle | Step::Reset | Step::Mail | Step::Rcpt | Step::Data => "",
        Step::Content | Step::Quit => "",
    };
    let text = format!("{host}: {error}{twice}");
    Report { at, remote: None, reply: Reply::new(ReplyCode::new(451), status, text) }
}
