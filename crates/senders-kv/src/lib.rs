//! What processes share about those who log in, in NATS KV.
//!
//! ```text
//! bucket `sending`  m.ADDRESS  d.DOMAIN   what was sent within a day      in memory, 26 hours
//! bucket `logins`   ADDRESS               last uses of its passwords      on disk, 400 days
//! ```
//!
//! Every change is a compare-and-set on the record's sequence: whoever comes second reads again.
//! Whoever counts first makes the bucket `sending`; `logins`, which is worth a backup, is made by
//! those who make the streams of mail, so that it can be restored while others go on writing.
//! Counts are in the servers' memory, for a limit is no account: they outlive each process and,
//! with replicas, each server, and begin anew when all servers stop at once. There is a record for
//! each mailbox and domain that has sent, of at most 1 KB and mostly of some 60 octets.
//!
//! **Does not know** limits, SMTP, nor the domain table.
//!
//! **Failure behaviour.** A change without an answer may have happened. Of counts, that is as if
//! they were used; a last use is added again.

mod bucket;
mod counts;
mod last_uses;

use async_nats::jetstream;
use nats::Cause;

pub use counts::Counts;
pub use last_uses::Logins;
pub use nats::Buckets;

/// Why there is no connection, not even later.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {urls}")]
pub struct ConnectError {
    urls: String,
    #[source]
    source: Cause,
}

/// A connection to the servers that hold the buckets.
#[derive(Clone)]
pub struct Servers {
    client: async_nats::Client,
    context: jetstream::Context,
    config: Buckets,
}

impl Servers {
    /// Servers may come later: until then nothing is answered.
    ///
    /// # Errors
    /// A file of the configuration cannot be read.
    pub async fn connect_later(config: &Buckets) -> Result<Self, ConnectError> {
        let error = |source| ConnectError { urls: config.urls.join(", "), source };
        let options = config.options().await.map_err(error)?.retry_on_initial_connect();
        let connected = options.connect(config.urls.clone()).await;
        let client = connected.map_err(|source| error(source.into()))?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(config.timeout);
        Ok(Self { client, context, config: config.clone() })
    }
}
