//! Which mailboxes are full: what the MDA tells reaches the ingress, in one process or by NATS KV.

use std::sync::Arc;

use domains::FullMailboxes;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::serve::Role;
use crate::table;

/// What this process knows of full mailboxes.
pub(crate) struct Fullness {
    /// By the MDA of this process.
    pub(crate) told: Arc<FullMailboxes>,
    /// By the ingress of this process: the same, but for processes that share a queue.
    pub(crate) heard: Arc<FullMailboxes>,
    /// Over which it is told and heard.
    bucket: Option<domains_kv::Buckets>,
    tells: bool,
    hears: bool,
}

impl Fullness {
    pub(crate) fn new(config: &Config, roles: &[Role]) -> anyhow::Result<Self> {
        let told = Arc::<FullMailboxes>::default();
        let (heard, bucket) = match config.jetstream {
            Some(_) => (Arc::default(), Some(config.domains_kv(table::inbox(roles))?)),
            None => (told.clone(), None),
        };
        let tells = roles.contains(&Role::Mda);
        let hears = roles.contains(&Role::Ingress);
        Ok(Self { told, heard, bucket, tells, hears })
    }

    /// Carries it to and from other processes until `stop`.
    pub(crate) async fn carry(self, stop: CancellationToken) {
        let Self { told, heard, bucket, tells, hears } = self;
        let Some(bucket) = bucket else { return stop.cancelled().await };
        let tell = async {
            if tells {
                domains_kv::tell_full(bucket.clone(), &told, stop.clone()).await;
            }
        };
        let hear = async {
            if hears {
                domains_kv::hear_full(bucket.clone(), &heard, stop.clone()).await;
            }
        };
        tokio::join!(tell, hear, stop.cancelled());
    }
}
