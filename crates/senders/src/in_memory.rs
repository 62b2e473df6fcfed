//! Counts of a process that shares them with no other.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use mail_types::Timestamp;

use crate::limits::Account;
use crate::pool::{Ask, LeaseError, Pool};
use crate::usage::Usage;

/// So many accounts may be remembered before it is looked who has sent nothing for a day.
const SWEEP_MIN: usize = 1024;

/// Counts in memory: they begin anew with the process. An account that has sent within a day takes
/// some 200 octets; there are no more than mailboxes and domains.
#[derive(Debug, Default)]
pub struct InMemory(Mutex<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    usages: HashMap<Account, Usage>,
    /// At so many it is swept next.
    sweep_at: usize,
}

#[async_trait]
impl Pool for InMemory {
    async fn lease(&self, account: &Account, ask: &Ask, now: Timestamp) -> Result<u32, LeaseError> {
        // A panic while counting leaves counts, not broken ones.
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.sweep(now);
        let usage = accounts.usages.entry(account.clone()).or_default();
        // Nobody else asks: what is not needed now would only have to come back.
        Ok(Ask { wanted: 1, ..ask.clone() }.of(usage, now)?)
    }
}

impl Accounts {
    fn sweep(&mut self, now: Timestamp) {
        if self.usages.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        self.usages.retain(|_, usage| !usage.is_over(now));
        self.sweep_at = self.usages.len() * 2;
    }
}
