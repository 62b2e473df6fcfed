//! When passwords were used last.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use async_nats::jetstream::stream::StorageType;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use nats::{Cause, token};
use senders::{LastUseStore, LastUses, Unstored};

use crate::bucket::{Bucket, ChangeError, Maker};
use crate::{Buckets, Servers};

/// A mailbox whose passwords nobody has used for so long is forgotten.
const LASTING: Duration = Duration::from_secs(400 * 24 * 3600);
/// Records that are changed at the same time.
const TOGETHER: usize = 16;
/// Between two tries to make the bucket.
const RETRY: Duration = Duration::from_secs(5);

/// The last uses that all processes have seen.
pub struct Logins(Bucket);

impl Logins {
    pub fn new(servers: Servers) -> Self {
        Self(Bucket::new(servers, "logins", Maker::Other, StorageType::File, LASTING))
    }

    /// Makes the bucket if it is not there, as soon as servers answer. Until somebody has, uses
    /// wait where they were seen.
    pub async fn make(config: &Buckets) {
        let make = async || -> Result<(), Cause> {
            let servers = Servers::connect_later(config).await?;
            Self::new(servers).0.ensure().await
        };
        while let Err(error) = make().await {
            tracing::debug!(%error, "the bucket of last uses cannot be made");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn add_of(&self, login: &str, uses: &LastUses) -> Result<(), Unstored> {
        let merge = |known: &mut LastUses| -> Result<(), Infallible> {
            known.merge(uses.clone());
            Ok(())
        };
        let changed = self.0.change(&token(login), merge).await;
        changed.map_err(|error| match error {
            ChangeError::Unknown(why) => Unstored(why),
            ChangeError::Refused(never) => match never {},
        })
    }
}

#[async_trait]
impl LastUseStore for Logins {
    async fn add(&self, uses: &BTreeMap<String, LastUses>) -> Result<(), Unstored> {
        let mut each = Vec::with_capacity(uses.len());
        for (login, uses) in uses {
            each.push(self.add_of(login, uses));
        }
        let mut adding = stream::iter(each).buffer_unordered(TOGETHER);
        let mut result = Ok(());
        while let Some(added) = adding.next().await {
            result = result.and(added);
        }
        result
    }

    async fn of(&self, login: &str) -> Result<LastUses, Unstored> {
        let found = self.0.get(&token(login)).await;
        found.map_err(|error| Unstored(error.to_string()))
    }
}
