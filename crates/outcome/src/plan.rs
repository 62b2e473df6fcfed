//! The decision about a job: who is done, who waits, who is told.

use mail_types::{Envelope, Host, Notify, ReversePath, Timestamp};
use queue::{
    Attempt, Disposition, FollowUpKind, Job, Progress, RecipientStatus, Report, Settlement, Wait,
};
use rand::Rng;
use retry::{Decision, History, Policy, decide};

use crate::due::{failures, is_due};
use crate::original::{Original, OriginalPart};
use crate::report::{Dsn, DsnRecipient, Route, Sources, compose};
use crate::verdict::{Delivery, EXPIRED, Outcome, Verdict, cancelled, expired_unheard};

/// How long a job that expired keeps for recipients that have not been tried once.
const RESPITE: std::time::Duration = std::time::Duration::from_secs(3600);

/// What an attempt took, for the history of the job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effort {
    pub at: Timestamp,
    pub took_ms: u64,
    /// `host[address]:port`, or the mailbox store; `None` when no host was reached.
    pub relay: Option<Box<str>>,
    pub tls: Option<Box<str>>,
}

/// What is new about a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    pub recipient: u32,
    pub fate: Fate,
    pub report: Report,
}

/// From the best to the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    Delivered,
    Deferred,
    Bounced,
    /// Deferred for too long.
    Expired,
}

/// Decides about jobs. One per role.
#[derive(Clone, Debug)]
pub struct Settler {
    host: Host,
    route: Route,
    /// How long DSNs are kept.
    dsn_policy: Policy,
}

impl Settler {
    /// `host` is our name, the Reporting-MTA; `dsn_policy` says how long DSNs are tried.
    pub fn new(host: Host, route: Route, dsn_policy: Policy) -> Self {
        Self { host, route, dsn_policy }
    }

    /// After an attempt. Pending recipients without a verdict were not part of it; at least one
    /// has a verdict.
    pub fn attempt(
        &self,
        job: &Job,
        policy: &Policy,
        effort: Effort,
        verdicts: Vec<Verdict>,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Plan {
        let fruitful = verdicts.iter().any(|v| matches!(v.outcome, Outcome::Delivered { .. }));
        let failures = failures(job) + u32::from(!fruitful);
        let decision = decide(policy, &history(job, policy, failures.max(1)), now, rng);
        let mut draft = Draft::new(job, expires(job, policy));
        let tried: Vec<u32> = verdicts.iter().map(|verdict| verdict.recipient).collect();
        for verdict in verdicts {
            draft.add(verdict, decision);
        }
        let is_left = |index: &u32| !tried.contains(index);
        let left: Vec<u32> = job.pending().map(|(index, _)| index).filter(is_left).collect();
        let at_once = left.iter().any(|&index| {
            let state = &job.recipients[index as usize];
            is_due(state, job, policy, now)
        });
        draft.keep(&left, decision, now);
        draft.dispose(decision, at_once, now);
        draft.settlement.attempt = Some(draft.attempt(job, effort));
        self.report(job, draft, now)
    }

    /// When the job's `wake_by` passed without an attempt: it expires, or its delay is reported.
    pub fn deadline(&self, job: &Job, policy: &Policy, now: Timestamp, rng: &mut impl Rng) -> Plan {
        let decision = decide(policy, &history(job, policy, failures(job).max(1)), now, rng);
        let mut draft = Draft::new(job, expires(job, policy));
        draft.waiting_for_hop = true;
        let pending: Vec<u32> = job.pending().map(|(index, _)| index).collect();
        for &index in &pending {
            let report = last_heard(job, index, now);
            match decision {
                Decision::Expired => draft.give_up(index, Fate::Expired, report),
                Decision::Retry { .. } => draft.wait(index, report),
            }
        }
        draft.dispose(decision, false, now);
        self.report(job, draft, now)
    }

    /// When an operator cancelled the job and wants its sender to know.
    pub fn cancellation(&self, job: &Job, now: Timestamp) -> Plan {
        let mut draft = Draft::new(job, job.envelope.expires);
        for (index, _) in job.pending() {
            draft.give_up(index, Fate::Bounced, cancelled(now));
        }
        self.report(job, draft, now)
    }

    /// When the content cannot be read for good: kept for an operator, nobody is told.
    pub fn quarantine(job: &Job, reason: &str) -> Settlement {
        Settlement {
            attempt: None,
            progress: Vec::new(),
            disposition: Disposition::Quarantine { reason: reason.into() },
            follow_ups: Vec::new(),
            delay_reported: job.delay_reported,
        }
    }

    /// Groups who is told what.
    fn report(&self, job: &Job, draft: Draft<'_>, now: Timestamp) -> Plan {
        let Draft { settlement, news, failed, delayed, succeeded, expires, .. } = draft;
        let mut plan = Plan { settlement, news, dsns: Vec::new(), double_bounces: Vec::new() };
        let Some(sender) = job.envelope.reverse_path.mailbox() else {
            plan.double_bounces = failed.into_iter().map(|told| told.recipient).collect();
            return plan;
        };
        let groups = [
            (FollowUpKind::FailedDsn, failed),
            (FollowUpKind::DelayedDsn, delayed),
            (FollowUpKind::SuccessDsn, succeeded),
        ];
        for (kind, recipients) in groups {
            if recipients.is_empty() {
                continue;
            }
            let jobs = self.route.jobs_to(sender);
            if !jobs.is_empty() {
                plan.dsns.push(Dsn { kind, recipients, jobs, at: now, expires });
            } else if kind == FollowUpKind::FailedDsn {
                plan.double_bounces = recipients.iter().map(|told| told.recipient).collect();
            }
        }
        plan
    }
}

fn history(job: &Job, policy: &Policy, failures: u32) -> History {
    let wants_delay = |notify: Notify| notify.delay();
    History {
        arrival: job.envelope.arrival,
        expires: expires(job, policy),
        failures,
        delay_notice_owed: !job.delay_reported
            && job.envelope.reverse_path != ReversePath::Null
            && job.pending().any(|(_, state)| wants_delay(state.recipient.notify_or_default())),
    }
}

/// When a job is given up: kept no longer than was meant when it came, nor than its next hop is
/// worth. What an attempt defers from then on has failed.
pub fn expires(job: &Job, policy: &Policy) -> Timestamp {
    let Envelope { reverse_path, arrival, expires, .. } = &*job.envelope;
    policy.expires(reverse_path, *arrival).min(*expires)
}

fn last_heard(job: &Job, index: u32, now: Timestamp) -> Report {
    let last = &job.recipients[index as usize].last;
    last.clone().unwrap_or_else(|| expired_unheard(now))
}

/// A settlement in the making.
struct Draft<'a> {
    job: &'a Job,
    expires: Timestamp,
    settlement: Settlement,
    news: Vec<News>,
    failed: Vec<DsnRecipient>,
    delayed: Vec<DsnRecipient>,
    succeeded: Vec<DsnRecipient>,
    waiting: Vec<(u32, Report)>,
    waiting_for_hop: bool,
}

impl<'a> Draft<'a> {
    fn new(job: &'a Job, expires: Timestamp) -> Self {
        Self {
            job,
            expires,
            settlement: Settlement {
                attempt: None,
                progress: Vec::new(),
                disposition: Disposition::Done,
                follow_ups: Vec::new(),
                delay_reported: job.delay_reported,
            },
            news: Vec::new(),
            failed: Vec::new(),
            delayed: Vec::new(),
            succeeded: Vec::new(),
            waiting: Vec::new(),
            waiting_for_hop: true,
        }
    }

    fn add(&mut self, verdict: Verdict, decision: Decision) {
        let Verdict { recipient, outcome } = verdict;
        match outcome {
            Outcome::Delivered { report, delivery } => self.deliver(recipient, report, delivery),
            Outcome::Bounced { report } => self.give_up(recipient, Fate::Bounced, report),
            Outcome::Deferred { report, .. } if decision == Decision::Expired => {
                self.give_up(recipient, Fate::Expired, report);
            }
            Outcome::Deferred { report, waiting_for } => {
                self.waiting_for_hop &= waiting_for == Wait::Hop;
                self.progress(recipient, RecipientStatus::Pending, &report);
                self.wait(recipient, report);
            }
        }
    }

    /// Pending recipients that were no part of the attempt.
    fn keep(&mut self, left: &[u32], decision: Decision, now: Timestamp) {
        for &index in left {
            let untried = self.job.recipients[index as usize].last.is_none();
            let report = last_heard(self.job, index, now);
            if decision == Decision::Expired && !untried {
                self.give_up(index, Fate::Expired, report);
            } else {
                self.waiting_for_hop = false;
                self.waiting.push((index, report));
            }
        }
    }

    fn deliver(&mut self, recipient: u32, report: Report, delivery: Delivery) {
        self.progress(recipient, RecipientStatus::Delivered, &report);
        let action = match delivery {
            Delivery::Final => Some(message::dsn::Action::Delivered),
            Delivery::RelayedWithoutDsn => Some(message::dsn::Action::Relayed),
            Delivery::RelayedWithDsn => None,
        };
        if let Some(action) = action
            && self.notify(recipient).success()
        {
            let status = report.reply.status_or_general();
            self.succeeded.push(DsnRecipient { recipient, action, status, report: report.clone() });
        }
        self.news.push(News { recipient, fate: Fate::Delivered, report });
    }

    fn give_up(&mut self, recipient: u32, fate: Fate, report: Report) {
        self.progress(recipient, RecipientStatus::Bounced, &report);
        if self.notify(recipient).failure() {
            let status = match fate {
                Fate::Expired => EXPIRED,
                Fate::Bounced | Fate::Delivered | Fate::Deferred => {
                    report.reply.status_or_general()
                }
            };
            let action = message::dsn::Action::Failed;
            self.failed.push(DsnRecipient { recipient, action, status, report: report.clone() });
        }
        self.news.push(News { recipient, fate, report });
    }

    fn wait(&mut self, recipient: u32, report: Report) {
        self.news.push(News { recipient, fate: Fate::Deferred, report: report.clone() });
        self.waiting.push((recipient, report));
    }

    fn progress(&mut self, recipient: u32, status: RecipientStatus, report: &Report) {
        let same = |p: &&mut Progress| p.status == status && p.report == *report;
        match self.settlement.progress.iter_mut().find(same) {
            Some(progress) => progress.recipients.push(recipient),
            None => self.settlement.progress.push(Progress {
                recipients: vec![recipient],
                status,
                report: report.clone(),
            }),
        }
    }

    fn notify(&self, recipient: u32) -> Notify {
        self.job.recipients[recipient as usize].recipient.notify_or_default()
    }

    /// What happens to the job next.
    fn dispose(&mut self, decision: Decision, at_once: bool, now: Timestamp) {
        if self.waiting.is_empty() {
            return;
        }
        let (mut until, wake_by) = match decision {
            Decision::Expired => (now, now + RESPITE),
            Decision::Retry { at, wake_by, report_delay } => {
                if report_delay {
                    self.report_delay();
                }
                (at, wake_by)
            }
        };
        if at_once {
            until = now;
        }
        let waiting_for = if self.waiting_for_hop { Wait::Hop } else { Wait::Time };
        self.settlement.disposition = Disposition::Defer { until, wake_by, waiting_for };
    }

    fn report_delay(&mut self) {
        self.settlement.delay_reported = true;
        let action = message::dsn::Action::Delayed;
        for (recipient, report) in std::mem::take(&mut self.waiting) {
            if self.notify(recipient).delay() {
                let status = report.reply.status_or_general();
                self.delayed.push(DsnRecipient { recipient, action, status, report });
            }
        }
    }

    fn attempt(&self, job: &Job, effort: Effort) -> Attempt {
        let count = |wanted: &[Fate]| {
            let matching = self.news.iter().filter(|news| wanted.contains(&news.fate));
            u32::try_from(matching.count()).unwrap_or(u32::MAX)
        };
        let telling = [Fate::Bounced, Fate::Expired, Fate::Deferred, Fate::Delivered]
            .iter()
            .find_map(|fate| self.news.iter().find(|news| news.fate == *fate));
        Attempt {
            number: job.attempts + 1,
            at: effort.at,
            took_ms: effort.took_ms,
            relay: effort.relay,
            tls: effort.tls,
            delivered: count(&[Fate::Delivered]),
            deferred: count(&[Fate::Deferred]),
            bounced: count(&[Fate::Bounced, Fate::Expired]),
            reply: telling
                .map_or_else(|| expired_unheard(effort.at).reply, |news| news.report.reply.clone()),
        }
    }
}

/// What is to be recorded and told. The role logs [`Self::news`], reads what
/// [`Self::original_needed`] names, and settles with [`Self::settlement`].
#[derive(Debug)]
pub struct Plan {
    settlement: Settlement,
    news: Vec<News>,
    dsns: Vec<Dsn>,
    double_bounces: Vec<u32>,
}

impl Plan {
    pub fn news(&self) -> &[News] {
        &self.news
    }

    /// Recipients given up of whom nobody can be told: they are logged.
    pub fn double_bounces(&self) -> &[u32] {
        &self.double_bounces
    }

    /// What the DSNs return of the message; `None` when there is no DSN.
    pub fn original_needed(&self, job: &Job) -> Option<OriginalPart> {
        let failed = self.dsns.iter().any(|dsn| dsn.kind == FollowUpKind::FailedDsn);
        (!self.dsns.is_empty()).then(|| OriginalPart::returned(job, failed))
    }

    /// The settlement with its DSNs.
    pub fn settlement(
        self,
        settler: &Settler,
        job: &Job,
        original: &Original,
        rng: &mut impl Rng,
    ) -> Settlement {
        let mut settlement = self.settlement;
        let Settler { host, dsn_policy: policy, .. } = settler;
        let sources = Sources { host, policy, job, original };
        if let Some(sender) = job.envelope.reverse_path.mailbox() {
            let dsns = self.dsns.into_iter();
            settlement.follow_ups = dsns.map(|dsn| compose(&sources, sender, dsn, rng)).collect();
        }
        settlement
    }
}
