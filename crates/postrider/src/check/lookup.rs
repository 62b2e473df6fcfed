//! The configured resolver, for somebody who waits for the answer.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;

use async_trait::async_trait;
use mail_types::Domain;
use resolve::{Dns, HostName, LookupError, MxRecord, OpenError, Resolver};
use tokio::time::timeout;

use super::LIMIT;

/// So that a second server, or a second try, is asked within [`LIMIT`].
const SERVER_SECONDS_MAX: NonZeroU64 = const { NonZeroU64::new(2).unwrap() };

/// Answers every question within [`LIMIT`].
#[derive(Clone)]
pub(super) struct Lookup(Dns);

impl Lookup {
    pub(super) fn new(config: &resolve::Config) -> Result<Self, OpenError> {
        let timeout_seconds = config.timeout_seconds.min(SERVER_SECONDS_MAX);
        Dns::new(&resolve::Config { timeout_seconds, ..config.clone() }).map(Self)
    }

    /// The same that asks one server only.
    pub(super) fn at(config: &resolve::Config, server: SocketAddr) -> Result<Self, OpenError> {
        Self::new(&resolve::Config { name_servers: vec![server], ..config.clone() })
    }

    /// The names that an address leads back to.
    pub(super) async fn names(&self, address: IpAddr) -> Result<Vec<HostName>, LookupError> {
        timely(self.0.names(address)).await
    }
}

#[async_trait]
impl Resolver for Lookup {
    async fn mx(&self, domain: &Domain) -> Result<Vec<MxRecord>, LookupError> {
        timely(self.0.mx(domain)).await
    }

    async fn addresses(&self, host: &HostName) -> Result<Vec<IpAddr>, LookupError> {
        timely(self.0.addresses(host)).await
    }
}

async fn timely<T>(answer: impl Future<Output = Result<T, LookupError>>) -> Result<T, LookupError> {
    timeout(LIMIT, answer).await.unwrap_or_else(|_| {
        let seconds = LIMIT.as_secs();
        Err(LookupError::Temporary(format!("nothing within {seconds} s").into()))
    })
}
