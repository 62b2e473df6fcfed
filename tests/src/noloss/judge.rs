//! The end of a run: what was sent against what has arrived.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::accounts::{Arrival, Books, Key, Outcome, Place, Sent};
use super::fault::Fault;
use super::logs::Logs;
use crate::ledger::Destiny;

/// How long after a fault was mended its outcomes may still be unknown to somebody: what was lost
/// is another's after `ackWaitSeconds` of the site.
const AFTERMATH: Duration = Duration::from_secs(10);
/// How long after a delivery its outcome is being recorded: `timeoutSeconds` of the site.
const RECORDING: Duration = Duration::from_secs(5);

/// A fault with its time.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) fault: Fault,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

impl Window {
    fn touches(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && from <= self.to + AFTERMATH
    }
}

/// A way in which mail was not kept as promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Crime {
    /// Accepted, and nowhere.
    Lost,
    /// Delivered with another content.
    Damaged,
    /// Found where it does not belong: both delivered and bounced, or never sent.
    Misplaced,
    /// Refused, or never finished, and delivered all the same.
    RefusedYetDelivered,
    /// Answered 4xx after its content and delivered, although the commit's outcome was known.
    DeferredYetDelivered,
    /// Delivered twice without a fault at that time.
    Duplicate,
    /// A client in the right was told 5xx, or a stranger was taken.
    WrongReply,
    /// A connection ended without a reply, and its process was not killed.
    Unanswered,
    /// Content that could not be read.
    Quarantined,
}

#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub crime: Crime,
    pub token: String,
    pub about: String,
    /// What the roles said of the message, whose directories are gone when somebody wants to know.
    pub said: Vec<String>,
}

/// The balance of a run.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Verdict {
    pub transactions: usize,
    pub accepted: usize,
    /// Recipients of what was accepted.
    pub recipients: usize,
    pub arrived: usize,
    pub relayed: usize,
    pub stored: usize,
    pub bounced: usize,
    pub double_bounced: usize,
    pub refused_before_content: usize,
    pub refused_after_content: usize,
    pub deferred_after_content: usize,
    /// Of these, delivered, for their commit's outcome was unknown.
    pub deferred_yet_delivered: usize,
    /// Content was sent and the process killed before it answered.
    pub unanswered: usize,
    pub unanswered_yet_delivered: usize,
    pub duplicates: usize,
    /// Which faults explain them.
    pub duplicates_by_fault: BTreeMap<String, usize>,
    pub findings: Vec<Finding>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub fn has(&self, crime: Crime) -> bool {
        self.findings.iter().any(|finding| finding.crime == crime)
    }
}

/// Holds the books against the faults.
pub(super) fn judge(books: &Books, logs: &Logs, windows: &[Window]) -> Verdict {
    let mut court = Court { books, logs, windows, verdict: Verdict::default() };
    for (token, sent) in &books.sent {
        court.transaction(token, sent);
    }
    for (key, arrivals) in &books.arrived {
        court.arrivals(key, arrivals);
    }
    for line in &logs.quarantined {
        court.find(Crime::Quarantined, "", line.clone());
    }
    court.verdict
}

struct Court<'a> {
    books: &'a Books,
    logs: &'a Logs,
    windows: &'a [Window],
    verdict: Verdict,
}

impl Court<'_> {
    fn find(&mut self, crime: Crime, token: &str, about: String) {
        let said = Vec::new();
        self.verdict.findings.push(Finding { crime, token: token.to_owned(), about, said });
    }

    fn transaction(&mut self, token: &str, sent: &Sent) {
        self.verdict.transactions += 1;
        for wrong in &sent.wrong {
            self.find(Crime::WrongReply, token, wrong.clone());
        }
        let is_delivered = |recipient: &str| {
            self.books.arrived.contains_key(&(token.to_owned(), recipient.to_owned()))
        };
        let delivered = sent.recipients.iter().any(|(recipient, _)| is_delivered(recipient));
        let refused: Vec<_> = sent.refused.iter().filter(|refused| is_delivered(refused)).collect();
        for refused in refused {
            let about = format!("{refused} was refused at RCPT: {:?}", sent.outcome);
            self.find(Crime::RefusedYetDelivered, token, about);
        }
        match &sent.outcome {
            Outcome::Accepted { .. } => self.accepted(token, sent),
            Outcome::Deferred(_) => {
                self.verdict.deferred_after_content += 1;
                if delivered {
                    self.deferred_yet_delivered(token, sent);
                }
            }
            Outcome::Unanswered(why) => {
                self.verdict.unanswered += 1;
                self.verdict.unanswered_yet_delivered += usize::from(delivered);
                self.must_be_killed(token, sent, why);
            }
            Outcome::Refused(_) => self.verdict.refused_after_content += 1,
            Outcome::RefusedBefore(_) => self.verdict.refused_before_content += 1,
            Outcome::Broken(why) if why.starts_with("told to go") => {}
            Outcome::Broken(why) => self.must_be_killed(token, sent, why),
        }
        let is_refused = matches!(
            sent.outcome,
            Outcome::Refused(_) | Outcome::RefusedBefore(_) | Outcome::Broken(_)
        );
        if is_refused && delivered {
            self.find(Crime::RefusedYetDelivered, token, format!("{:?}", sent.outcome));
        }
    }

    fn accepted(&mut self, token: &str, sent: &Sent) {
        self.verdict.accepted += 1;
        for (recipient, destiny) in &sent.recipients {
            self.verdict.recipients += 1;
            match self.books.arrived.get(&(token.to_owned(), recipient.clone())) {
                Some(_) => self.verdict.arrived += 1,
                None => {
                    let about = format!("{recipient}, {destiny:?}: {:?}", sent.outcome);
                    self.find(Crime::Lost, token, about);
                }
            }
            match destiny {
                Destiny::Relayed => self.verdict.relayed += 1,
                Destiny::Stored => self.verdict.stored += 1,
                Destiny::Bounced => self.verdict.bounced += 1,
                Destiny::DoubleBounced => self.verdict.double_bounced += 1,
            }
        }
    }

    fn deferred_yet_delivered(&mut self, token: &str, sent: &Sent) {
        let of_this = self.books.arrived.iter().filter(|(key, _)| key.0 == token);
        let mut ids = of_this.flat_map(|(_, arrivals)| arrivals).filter_map(|a| a.queue_id.clone());
        // A DSN has an id of its own.
        if ids.any(|id| self.logs.unanswered_commits.contains(&id)) {
            self.verdict.deferred_yet_delivered += 1;
        } else {
            self.find(Crime::DeferredYetDelivered, token, format!("{:?}", sent.outcome));
        }
    }

    fn must_be_killed(&mut self, token: &str, sent: &Sent, why: &str) {
        let is_cause = |window: &Window| {
            window.fault.cuts_off_clients_of(sent.ingress)
                && window.from <= sent.ended
                && sent.began <= window.to
        };
        if !self.windows.iter().any(is_cause) {
            self.find(Crime::Unanswered, token, why.to_owned());
        }
    }

    fn arrivals(&mut self, key: &Key, arrivals: &[Arrival]) {
        let Some(sent) = self.books.sent.get(&key.0) else {
            self.find(Crime::Misplaced, &key.0, format!("{}: nobody sent it", key.1));
            return;
        };
        let destiny = sent.recipients.iter().find(|(recipient, _)| *recipient == key.1);
        for arrival in arrivals {
            if let Some((_, destiny)) = destiny
                && !arrival.place.fits(*destiny)
            {
                let about = format!("{} was to be {destiny:?}: {arrival:?}", key.1);
                self.find(Crime::Misplaced, &key.0, about);
            }
            if arrival.digest.is_some_and(|digest| digest != sent.digest) {
                self.find(Crime::Damaged, &key.0, format!("{}: {arrival:?}", key.1));
            }
        }
        let mut arrivals: Vec<&Arrival> = arrivals.iter().collect();
        arrivals.sort_by_key(|arrival| arrival.at);
        for pair in arrivals.windows(2) {
            self.duplicate(key, sent, pair[0], pair[1]);
        }
    }

    /// The fault fell into the first delivery or the recording of it, or, of a DSN, into the time
    /// since the message was sent; what a log tells has no time. A mailbox knows what it has.
    fn duplicate(&mut self, key: &Key, sent: &Sent, first: &Arrival, second: &Arrival) {
        self.verdict.duplicates += 1;
        let (from, to) = match first.place {
            Place::Mailbox => {
                let about = format!("{}: {first:?} and {second:?}", key.1);
                return self.find(Crime::Duplicate, &key.0, about);
            }
            Place::Sink => (first.began.min(second.began), first.at + RECORDING),
            Place::Report => (sent.began, first.at + RECORDING),
            Place::Log => (sent.began, second.at),
        };
        let explains =
            |window: &&Window| window.fault.explains_duplicates() && window.touches(from, to);
        // The last one that began: the others were over by then.
        match self.windows.iter().rfind(explains) {
            Some(window) => {
                let by = format!("{}, {:?}", window.fault, first.place).to_lowercase();
                let by = self.verdict.duplicates_by_fault.entry(by);
                *by.or_default() += 1;
            }
            None => {
                let about = format!("{}: {first:?} and {second:?}", key.1);
                self.find(Crime::Duplicate, &key.0, about);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noloss::accounts::Accounts;

    const TOKEN: &str = "T1";
    const TO: &str = "user@good.test";

    fn sent(outcome: Outcome) -> Sent {
        sent_to(Destiny::Relayed, outcome)
    }

    fn sent_to(destiny: Destiny, outcome: Outcome) -> Sent {
        let now = Instant::now();
        Sent {
            ingress: 0,
            recipients: vec![(TO.into(), destiny)],
            refused: vec!["nobody@local.test".into()],
            wrong: Vec::new(),
            digest: 7,
            outcome,
            began: now,
            ended: now,
        }
    }

    fn accepted() -> Sent {
        sent(Outcome::Accepted { queue_id: "Q1".into() })
    }

    fn arrival(place: Place) -> Arrival {
        let now = Instant::now();
        Arrival { place, began: now, at: now, digest: Some(7), queue_id: Some("Q1".into()) }
    }

    fn crimes(sent: Sent, arrivals: &[(&str, Arrival)], faults: &[Fault]) -> Vec<Crime> {
        let windows: Vec<Window> = faults
            .iter()
            .map(|fault| Window { fault: fault.clone(), from: sent.began, to: Instant::now() })
            .collect();
        let accounts = Accounts::default();
        accounts.book(TOKEN.into(), sent);
        for (recipient, arrival) in arrivals {
            accounts.arrive(TOKEN.into(), (*recipient).into(), arrival.clone());
        }
        let verdict = judge(&accounts.snapshot(), &Logs::new(Vec::new()), &windows);
        verdict.findings.iter().map(|finding| finding.crime).collect()
    }

    #[test]
    fn what_arrived_is_clean_and_what_did_not_is_lost() {
        assert!(crimes(accepted(), &[(TO, arrival(Place::Sink))], &[]).is_empty());
        assert_eq!(crimes(accepted(), &[], &[]), [Crime::Lost]);
    }

    #[test]
    fn what_arrived_otherwise_is_found() {
        let bounced = [(TO, arrival(Place::Sink)), (TO, arrival(Place::Report))];
        assert!(crimes(accepted(), &bounced, &[]).contains(&Crime::Misplaced));
        let damaged = Arrival { digest: Some(8), ..arrival(Place::Sink) };
        assert_eq!(crimes(accepted(), &[(TO, damaged)], &[]), [Crime::Damaged]);
    }

    #[test]
    fn what_was_refused_must_not_arrive() {
        let refused = Outcome::Refused("554".into());
        assert!(crimes(sent(refused.clone()), &[], &[]).is_empty());
        let there = [(TO, arrival(Place::Sink))];
        assert_eq!(crimes(sent(refused), &there, &[]), [Crime::RefusedYetDelivered]);
        let there = [(TO, arrival(Place::Sink)), ("nobody@local.test", arrival(Place::Mailbox))];
        assert_eq!(crimes(accepted(), &there, &[]), [Crime::RefusedYetDelivered]);
        let deferred = sent(Outcome::Deferred("451".into()));
        assert_eq!(crimes(deferred, &there[..1], &[]), [Crime::DeferredYetDelivered]);
    }

    #[test]
    fn a_duplicate_needs_a_fault_that_explains_it() {
        let twice = [(TO, arrival(Place::Sink)), (TO, arrival(Place::Sink))];
        assert_eq!(crimes(accepted(), &twice, &[]), [Crime::Duplicate]);
        assert_eq!(crimes(accepted(), &twice, &[Fault::RestartRole(2)]), [Crime::Duplicate]);
        assert!(crimes(accepted(), &twice, &[Fault::KillRole(2)]).is_empty());
        assert_eq!(crimes(accepted(), &twice, &[Fault::KillRole(5)]), [Crime::Duplicate]);
        let stored = || sent_to(Destiny::Stored, Outcome::Accepted { queue_id: "Q1".into() });
        let twice = [(TO, arrival(Place::Mailbox)), (TO, arrival(Place::Mailbox))];
        assert_eq!(crimes(stored(), &twice, &[Fault::PowerCut]), [Crime::Duplicate]);
    }

    #[test]
    fn a_connection_ends_by_a_kill_only() {
        let unanswered = || sent(Outcome::Unanswered("closed".into()));
        assert_eq!(crimes(unanswered(), &[], &[Fault::KillRole(1)]), [Crime::Unanswered]);
        assert!(crimes(unanswered(), &[], &[Fault::KillRole(0)]).is_empty());
    }
}
