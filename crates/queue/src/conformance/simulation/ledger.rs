//! What must be, may be and must not be in the queue.

use std::collections::BTreeMap;

use mail_types::{QueueId, Timestamp};

use crate::model::{Disposition, Job, JobId, Settlement};

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error("{0} was committed and never done, and is not in the queue")]
    Lost(JobId),
    #[error("{0} is in the queue, and was never committed, or is done")]
    Unheard(JobId),
    #[error("due and not leased: {0:?}")]
    NotLeased(Vec<JobId>),
    #[error("{0} was leased while another lease of it lasted")]
    LeasedTwice(JobId),
    #[error("{0} was leased before its time")]
    TooEarly(JobId),
    #[error("{job} had {had} attempts and is said to have {said}")]
    Attempts { job: JobId, had: u32, said: u32 },
    #[error("{0} was settled or extended by a lease that somebody else had taken over")]
    Usurped(JobId),
    #[error("{0} was taken from its holder before the lease lapsed")]
    Taken(JobId),
}

/// What a simulation did, so that a run in which nothing happened is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Jobs that were surely committed, follow-ups included.
    pub committed: usize,
    pub deferred: usize,
    pub done: usize,
    /// Commits and settlements whose outcome stayed unknown.
    pub unknown: usize,
    pub crashes: usize,
    /// Leases that were held when a crash came.
    pub leased_at_crash: usize,
}

#[derive(Default)]
pub(super) struct Ledger {
    accounts: BTreeMap<JobId, Account>,
    tally: Tally,
}

struct Account {
    presence: Presence,
    /// Not leased before, as far as is known.
    not_before: Option<Timestamp>,
    attempts: Option<u32>,
    /// The hand that leased it last, and until when.
    holder: Option<(u64, Timestamp)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Must,
    May,
    Gone,
}

impl Account {
    fn new(presence: Presence) -> Self {
        Self { presence, not_before: None, attempts: Some(0), holder: None }
    }

    fn is_held(&self, now: Timestamp) -> bool {
        self.holder.is_some_and(|(_, until)| now < until)
    }
}

impl Ledger {
    pub(super) fn committed(&mut self, message: QueueId, jobs: usize) {
        self.tally.committed += jobs;
        self.enter(message, jobs, Presence::Must);
    }

    pub(super) fn perhaps_committed(&mut self, message: QueueId, jobs: usize) {
        self.tally.unknown += 1;
        self.enter(message, jobs, Presence::May);
    }

    fn enter(&mut self, message: QueueId, jobs: usize, presence: Presence) {
        for index in (0..).take(jobs) {
            let new = || Account::new(presence);
            let account = self.accounts.entry(JobId { message, index }).or_insert_with(new);
            // A follow-up that was looked for and not found may be made by another settlement.
            match (account.presence, presence) {
                (Presence::Gone, _) | (Presence::May, Presence::Must) => *account = new(),
                _ => {}
            }
        }
    }

    /// The jobs that a lease must find one of.
    pub(super) fn surely_due(&self, now: Timestamp) -> Vec<JobId> {
        let due = |account: &Account| {
            account.presence == Presence::Must
                && !account.is_held(now)
                && account.not_before.is_none_or(|time| time <= now)
        };
        self.accounts.iter().filter(|(_, account)| due(account)).map(|(&id, _)| id).collect()
    }

    pub(super) fn leased(
        &mut self,
        job: &Job,
        hand: u64,
        now: Timestamp,
        deadline: Timestamp,
    ) -> Result<(), Violation> {
        let account = self.accounts.get_mut(&job.id).ok_or(Violation::Unheard(job.id))?;
        if account.presence == Presence::Gone {
            return Err(Violation::Unheard(job.id));
        }
        if account.is_held(now) {
            return Err(Violation::LeasedTwice(job.id));
        }
        // Attempts are not known where the deferral is not.
        let sure = account.attempts.is_some();
        if sure && account.not_before.is_some_and(|time| now < time) {
            return Err(Violation::TooEarly(job.id));
        }
        if let Some(had) = account.attempts
            && had != job.attempts
        {
            return Err(Violation::Attempts { job: job.id, had, said: job.attempts });
        }
        *account = Account {
            presence: Presence::Must,
            not_before: None,
            attempts: Some(job.attempts),
            holder: Some((hand, deadline)),
        };
        Ok(())
    }

    pub(super) fn given_back(&mut self, id: JobId, hand: u64) {
        if let Some(account) = self.account_of(id, hand) {
            account.holder = None;
        }
    }

    pub(super) fn extended(
        &mut self,
        id: JobId,
        hand: u64,
        deadline: Timestamp,
    ) -> Result<(), Violation> {
        let account = self.account_of(id, hand).ok_or(Violation::Usurped(id))?;
        account.holder = Some((hand, deadline));
        Ok(())
    }

    /// The queue says that the lease is no longer ours.
    pub(super) fn lost(&mut self, id: JobId, hand: u64, now: Timestamp) -> Result<(), Violation> {
        match self.account_of(id, hand) {
            Some(account) if account.is_held(now) => Err(Violation::Taken(id)),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn settled(
        &mut self,
        job: &Job,
        hand: u64,
        settlement: &Settlement,
    ) -> Result<(), Violation> {
        let account = self.account_of(job.id, hand).ok_or(Violation::Usurped(job.id))?;
        account.holder = None;
        account.attempts = Some(job.attempts + u32::from(settlement.attempt.is_some()));
        match &settlement.disposition {
            Disposition::Done => {
                account.presence = Presence::Gone;
                self.tally.done += 1;
            }
            Disposition::Defer { until, .. } => {
                account.not_before = Some(*until);
                self.tally.deferred += 1;
            }
            // Not simulated: both stay, and are seen in the list.
            Disposition::Hold | Disposition::Quarantine { .. } => {}
        }
        for follow_up in &settlement.follow_ups {
            self.committed(follow_up.id(job.id, job.attempts), follow_up.jobs.len());
        }
        Ok(())
    }

    pub(super) fn perhaps_settled(&mut self, job: &Job, settlement: &Settlement) {
        if let Some(account) = self.accounts.get_mut(&job.id) {
            let (presence, not_before) = match &settlement.disposition {
                Disposition::Done => (Presence::May, None),
                Disposition::Defer { until, .. } => (Presence::Must, Some(*until)),
                Disposition::Hold | Disposition::Quarantine { .. } => (Presence::Must, None),
            };
            // Whether it was deferred is not known, so that it may come earlier as well.
            *account = Account { presence, not_before, attempts: None, holder: None };
        }
        for follow_up in &settlement.follow_ups {
            self.perhaps_committed(follow_up.id(job.id, job.attempts), follow_up.jobs.len());
        }
        self.tally.unknown += 1;
    }

    pub(super) fn crashed(&mut self) {
        self.tally.crashes += 1;
        for account in self.accounts.values_mut() {
            self.tally.leased_at_crash += usize::from(account.holder.take().is_some());
        }
    }

    /// Compares with the list of the queue, which settles what was in doubt.
    pub(super) fn looked(&mut self, listed: &[JobId]) -> Result<(), Violation> {
        for id in listed {
            let account = self.accounts.get(id);
            if account.is_none_or(|account| account.presence == Presence::Gone) {
                return Err(Violation::Unheard(*id));
            }
        }
        for (id, account) in &mut self.accounts {
            match (account.presence, listed.contains(id)) {
                (Presence::Must, false) => return Err(Violation::Lost(*id)),
                (Presence::May, false) => account.presence = Presence::Gone,
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    fn account_of(&mut self, job: JobId, hand: u64) -> Option<&mut Account> {
        let account = self.accounts.get_mut(&job)?;
        (account.holder?.0 == hand).then_some(account)
    }
}
