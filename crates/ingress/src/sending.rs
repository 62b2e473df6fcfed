//! What those who log in may send.

use std::sync::Arc;

use domains::{Identity, Table};
use mail_types::Mailbox;
use senders::{Account, Meter, Pool, Scope, Tally};

use crate::config::SendingConfig;

/// Counts the recipients of those who logged in, by their mailbox and by its domain.
#[derive(Clone)]
pub(crate) struct Sending {
    meter: Arc<Meter>,
    defaults: SendingConfig,
}

impl Sending {
    pub(crate) fn new(pool: Arc<dyn Pool>, defaults: SendingConfig) -> Self {
        Self { meter: Meter::new(pool), defaults }
    }

    /// The same counts, held against other limits.
    pub(crate) fn renewed(&self, defaults: SendingConfig) -> Self {
        Self { meter: Arc::clone(&self.meter), defaults }
    }

    /// Begins to count a transaction of theirs.
    pub(crate) fn tally(&self, identity: &Identity, table: &Table) -> Tally {
        let mailbox = Account { scope: Scope::Mailbox, name: identity.login().into() };
        let of_mailbox = identity.sending_limits().or(self.defaults.of_mailbox());
        let address = Mailbox::parse(identity.login()).ok();
        // A mailbox of ours always has a domain: the table refuses literals.
        let domain = address.as_ref().and_then(Mailbox::domain).map(|domain| {
            let account = Account { scope: Scope::Domain, name: domain.as_str().into() };
            (account, table.sending_limits(domain).or(self.defaults.of_domain()))
        });
        self.meter.tally([(mailbox, of_mailbox)].into_iter().chain(domain))
    }
}
