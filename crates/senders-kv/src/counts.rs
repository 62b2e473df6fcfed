//! How many recipients were sent to.

use std::time::Duration;

use async_nats::jetstream::stream::StorageType;
use async_trait::async_trait;
use mail_types::Timestamp;
use nats::token;
use senders::{Account, Ask, LeaseError, Pool, Scope, Usage};

use crate::Servers;
use crate::bucket::{Bucket, ChangeError, Maker};

/// Longer than anything counts.
const LASTING: Duration = Duration::from_secs(26 * 3600);

/// The counts of all processes.
pub struct Counts(Bucket);

impl Counts {
    pub fn new(servers: Servers) -> Self {
        Self(Bucket::new(servers, "sending", Maker::Writer, StorageType::Memory, LASTING))
    }
}

#[async_trait]
impl Pool for Counts {
    async fn lease(&self, account: &Account, ask: &Ask, now: Timestamp) -> Result<u32, LeaseError> {
        let leased = self.0.change(&key(account), |usage: &mut Usage| ask.of(usage, now)).await;
        leased.map_err(|error| match error {
            ChangeError::Refused(exceeded) => LeaseError::Exceeded(exceeded),
            ChangeError::Unknown(why) => LeaseError::Unknown(why),
        })
    }
}

fn key(account: &Account) -> String {
    let scope = match account.scope {
        Scope::Mailbox => 'm',
        Scope::Domain => 'd',
    };
    format!("{scope}.{}", token(&account.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_apart() {
        let key = |scope, name: &str| key(&Account { scope, name: name.into() });
        assert_eq!(key(Scope::Mailbox, "a.b@d.test"), "m.a_b=40d_test");
        assert_eq!(key(Scope::Domain, "d.test"), "d.d_test");
        assert_ne!(key(Scope::Mailbox, "d.test"), key(Scope::Domain, "d.test"));
    }
}
