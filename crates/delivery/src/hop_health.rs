//! How often each next hop has failed in a row, and when it is looked at again.
//!
//! The queue keeps a hop's jobs back while it is down; this decides for how long. Lost with the
//! process: then each job's own schedule is what is left, and the first failure starts anew.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use mail_types::Timestamp;
use queue::NextHop;
use rand::Rng;
use retry::{Decision, History, Policy, decide};

/// Hops that are remembered; beyond, the ones that are due anyway are forgotten.
const HOPS_MAX: usize = 50_000;

#[derive(Debug)]
struct Health {
    failures: u32,
    down_until: Timestamp,
}

#[derive(Debug)]
pub(crate) struct HopHealth {
    hops: Mutex<HashMap<NextHop, Health>>,
    interval_max: Duration,
}

impl HopHealth {
    pub(crate) fn new(interval_max: Duration) -> Self {
        Self { hops: Mutex::default(), interval_max }
    }

    /// Notes a failure. Attempts that were under way when the first failed are not counted again:
    /// they found out nothing new.
    pub(crate) fn failed(
        &self,
        hop: &NextHop,
        policy: &Policy,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Timestamp {
        let mut hops = self.lock();
        if hops.len() >= HOPS_MAX {
            hops.retain(|_, health| health.down_until > now);
        }
        let known = hops.get(hop);
        if let Some(health) = known.filter(|health| health.down_until > now) {
            return health.down_until;
        }
        let failures = known.map_or(0, |health| health.failures) + 1;
        let down_until = self.next_look(policy, failures, now, rng);
        if hops.len() < HOPS_MAX {
            hops.insert(hop.clone(), Health { failures, down_until });
        }
        down_until
    }

    pub(crate) fn reached(&self, hop: &NextHop) {
        self.lock().remove(hop);
    }

    pub(crate) fn down(&self) -> usize {
        self.lock().len()
    }

    fn next_look(
        &self,
        policy: &Policy,
        failures: u32,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Timestamp {
        let latest = now + self.interval_max;
        let expires = latest + self.interval_max;
        let history = History { arrival: now, expires, failures, delay_notice_owed: false };
        match decide(policy, &history, now, rng) {
            Decision::Retry { at, .. } => at.min(latest),
            Decision::Expired => latest,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NextHop, Health>> {
        self.hops.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_types::Host;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn longer_and_longer_up_to_the_limit_and_at_once_after_success() {
        let health = HopHealth::new(Duration::from_secs(900));
        let hop = NextHop::smtp(&Host::parse("a.example").unwrap());
        let policy = Policy { jitter_percent: 0, ..Policy::default() };
        let mut rng = SmallRng::seed_from_u64(1);
        let mut now = Timestamp::from_unix_ms(1_795_388_895_042);
        for minutes in [1, 5, 10, 15, 15] {
            let until = health.failed(&hop, &policy, now, &mut rng);
            assert_eq!(until, now + Duration::from_secs(minutes * 60));
            let meanwhile = now + Duration::from_secs(1);
            assert_eq!(health.failed(&hop, &policy, meanwhile, &mut rng), until);
            now = until;
        }
        health.reached(&hop);
        assert_eq!(health.down(), 0);
        let until = health.failed(&hop, &policy, now, &mut rng);
        assert_eq!(until, now + Duration::from_secs(60));
    }
}
