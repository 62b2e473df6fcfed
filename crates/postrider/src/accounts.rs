//! Where it is kept what those who log in have sent, and when their passwords were used.

use std::sync::Arc;

use anyhow::Context;
use senders::{InMemory, LastUseStore, Pool};
use senders_kv::{Counts, Logins, Servers};

use crate::config::Config;
use crate::last_use_file::LastUseFile;
use crate::serve::Role;
use crate::table;

/// What an ingress counts and remembers with.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) last_uses: Arc<dyn LastUseStore>,
}

impl Accounts {
    /// On the servers that processes share, or in this process. Servers need not be there yet.
    pub(crate) async fn open(config: &Config, roles: &[Role]) -> anyhow::Result<Self> {
        let Some(shared) = config.buckets(table::inbox(roles)) else {
            let file = LastUseFile::open(&config.last_use_file());
            return Ok(Self { pool: Arc::new(InMemory::default()), last_uses: Arc::new(file) });
        };
        // Boxed: the client library's connecting is large.
        let servers = Box::pin(Servers::connect_later(&shared)).await.context("jetstream")?;
        let last_uses = Arc::new(Logins::new(servers.clone()));
        Ok(Self { pool: Arc::new(Counts::new(servers)), last_uses })
    }
}
