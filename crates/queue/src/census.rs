//! What a queue holds, counted for those who watch it.
//!
//! Bounded, however many domains and tenants there are: those with most jobs are named, the others
//! are counted together.

use std::cmp::Reverse;

use mail_types::{TenantId, Timestamp};

use crate::model::NextHop;

/// Domains, and tenants, that are named.
pub const NAMED: usize = 20;

/// Jobs by where they stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub jobs: u64,
    /// Due, and not leased.
    pub ready: u64,
    pub active: u64,
    pub held: u64,
    pub quarantined: u64,
    /// Arrival of the oldest message with a job that is ready or active.
    pub oldest: Option<Timestamp>,
}

impl Tally {
    /// Jobs that wait for their time, or for a next hop that is down.
    pub fn deferred(&self) -> u64 {
        self.jobs - self.ready - self.active - self.held - self.quarantined
    }

    pub fn add(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.ready += other.ready;
        self.active += other.active;
        self.held += other.held;
        self.quarantined += other.quarantined;
        self.saw(other.oldest);
    }

    /// A message that arrived then has a job that is ready or active.
    pub fn saw(&mut self, arrival: Option<Timestamp>) {
        self.oldest = self.oldest.into_iter().chain(arrival).min();
    }
}

/// A share of the queue that one process counts at a time: sums over processes are right.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// Where jobs in the queue's index stand, those of `parked` among the ready ones.
    pub tally: Tally,
    /// Ready jobs that gave up their place in an intake, or came by a split, or are due again.
    pub parked: u64,
    /// Messages that wait in an intake and are not in the index: ready, too.
    pub backlog: u64,
}

impl Share {
    /// Jobs that wait for a worker where they arrived.
    pub fn ready(&self) -> u64 {
        self.tally.ready.saturating_sub(self.parked) + self.backlog
    }

    /// What more workers could do: jobs that wait for one, and those that one has.
    pub fn work(&self) -> u64 {
        self.tally.ready + self.tally.active + self.backlog
    }
}

/// The queue, or what this process has of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Each counts wherever it has a job: for several next hops perhaps in several processes.
    pub messages: u64,
    /// Octets of their content.
    pub content_bytes: u64,
    pub shares: Vec<(String, Share)>,
    pub next_hops: Named<NextHop>,
    pub tenants: Named<TenantId>,
    /// Octets that the store occupies; `None` where another process tells.
    pub store_bytes: Option<u64>,
    /// Octets at which mail from outside is refused; the same.
    pub store_limit_bytes: Option<u64>,
}

/// Those who have most jobs, and all others together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named<K> {
    pub first: Vec<(K, Tally)>,
    pub other: Tally,
}

impl<K> Default for Named<K> {
    fn default() -> Self {
        Self { first: Vec::new(), other: Tally::default() }
    }
}

impl<K: Clone> Named<K> {
    /// Names [`NAMED`] of them.
    pub fn most(mut all: Vec<(&K, Tally)>) -> Self {
        if all.len() > NAMED {
            all.select_nth_unstable_by_key(NAMED, |(_, tally)| Reverse(tally.jobs));
        }
        let mut other = Tally::default();
        for (_, tally) in all.iter().skip(NAMED) {
            other.add(tally);
        }
        let first = all.into_iter().take(NAMED).map(|(key, tally)| (key.clone(), tally));
        Self { first: first.collect(), other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_most_jobs_are_named_and_no_job_is_left_out() {
        let keys: Vec<u64> = (1..=100).collect();
        let tally = |jobs| Tally { jobs, ready: jobs, ..Tally::default() };
        let named = Named::most(keys.iter().map(|jobs| (jobs, tally(*jobs))).collect());
        let mut first: Vec<u64> = named.first.iter().map(|(key, _)| *key).collect();
        first.sort_unstable();
        assert_eq!(first, (81..=100).collect::<Vec<_>>());
        assert_eq!(named.other, tally((1..=80).sum()));
        assert_eq!(Named::most(vec![(&7u64, tally(7))]).other, Tally::default());
    }
}
