//! Where it is kept what those who log in have sent, and when their passwords were used.

use std::sync::Arc;

use anyhow::Context;
use senders::{InMemory, LastUseStore, Pool};
use senders_kv::{Buckets, Counts, Logins, Servers};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::last_use_file::LastUseFile;
use crate::serve::Role;
use crate::table;

/// What processes count and remember with where somebody logs in.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) last_uses: Arc<dyn LastUseStore>,
    /// Where this process makes the bucket of last uses.
    makes: Option<Buckets>,
}

impl Accounts {
    /// On the servers that processes share, or in this process. Servers need not be there yet, and
    /// are not connected to where nobody logs in.
    pub(crate) async fn open(config: &Config, roles: &[Role]) -> anyhow::Result<Self> {
        let shared = config.buckets(table::inbox(roles));
        let works = roles.contains(&Role::Worker) || roles.contains(&Role::Mda);
        let makes = shared.clone().filter(|_| works);
        let Some(shared) = shared.filter(|_| has_logins(config, roles)) else {
            let file = LastUseFile::open(&config.last_use_file());
            return Ok(Self {
                pool: Arc::new(InMemory::default()),
                last_uses: Arc::new(file),
                makes,
            });
        };
        // Boxed: the client library's connecting is large.
        let servers = Box::pin(Servers::connect_later(&shared)).await.context("jetstream")?;
        let last_uses = Arc::new(Logins::new(servers.clone()));
        Ok(Self { pool: Arc::new(Counts::new(servers)), last_uses, makes })
    }

    /// Makes what ingresses write to, if this process is one of those that do, and waits for
    /// `stop`.
    pub(crate) async fn prepare(self, stop: CancellationToken) {
        if let Some(buckets) = self.makes {
            stop.run_until_cancelled(Box::pin(Logins::make(&buckets))).await;
        }
        stop.cancelled().await;
    }
}

/// Whether somebody logs in, or is asked for: operators ask any ingress for last uses.
fn has_logins(config: &Config, roles: &[Role]) -> bool {
    let is_dovecot = roles.contains(&Role::Mda) && config.dovecot.socket.is_some();
    roles.contains(&Role::Ingress) || is_dovecot
}
