//! What is asked of NATS, and what its answers mean.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::kv::{self, Store, Watch};
use async_nats::jetstream::stream::StorageType;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures::future::try_join_all;
use nats::{Cause, Publish, PublishError};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::Buckets;
use crate::keys::{self, BUCKET, MARKER};
use crate::record::{Marker, Versions};

/// The stream of the bucket.
const STREAM: &str = "KV_domains";

/// Why the bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("cannot connect to {urls}")]
    Connect {
        urls: String,
        #[source]
        source: Cause,
    },
    #[error("bucket {BUCKET} cannot be opened")]
    Open(#[source] Cause),
    #[error("bucket {BUCKET} cannot be read")]
    Read(#[source] Cause),
    #[error(
        "bucket {BUCKET}: {setting} is {found}, but must be {wanted}: edit its stream with \
         `nats stream edit {STREAM}`"
    )]
    Differs { setting: &'static str, found: String, wanted: String },
}

/// Why something was not written, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing of it will be in force, unless it was the marker and that is.
    #[error("another has begun to publish after this one, and goes on")]
    Fenced,
    #[error("the server refused it: {0}")]
    Refused(String),
    #[error("no server answered")]
    Unknown(#[source] Cause),
}

/// A connection to the servers that hold the bucket.
#[derive(Clone)]
pub(crate) struct Bucket {
    client: Client,
    context: Context,
    config: Buckets,
}

/// Lanes that a writer has: in each, one write is under way at a time, for servers refuse a second
/// one under the same condition. Many, for each write waits for the disks of a majority.
pub(crate) const LANES: usize = 256;
/// Lanes that are claimed one after the other; from each the others are, side by side.
const ROW: usize = 16;

/// The right to write, until another claims it: the sequences of its lanes' keys.
#[derive(Clone, Debug)]
pub(crate) struct Claim(Vec<u64>);

impl Claim {
    /// The sequence after which nothing of an earlier writer comes.
    pub(crate) fn end(&self) -> u64 {
        self.0.iter().max().copied().unwrap_or_default()
    }
}

/// Between two tries of a write.
const PAUSE: Duration = Duration::from_millis(50);
/// How many answers a write waits for.
const TRIES: u32 = 3;

/// The lane in which a claim can be taken away.
pub(crate) const FIRST_LANE: usize = 0;

impl Bucket {
    /// Fails when no server is there.
    pub(crate) async fn connect(config: &Buckets) -> Result<Self, BucketError> {
        let options = config.options().await;
        Self::open(config, options.map_err(|source| Self::unreachable(config, source))?).await
    }

    /// Servers may come later: until then nothing is answered.
    pub(crate) async fn connect_later(config: &Buckets) -> Result<Self, BucketError> {
        let options = config.options().await.map(ConnectOptions::retry_on_initial_connect);
        Self::open(config, options.map_err(|source| Self::unreachable(config, source))?).await
    }

    fn unreachable(config: &Buckets, source: Cause) -> BucketError {
        BucketError::Connect { urls: config.urls.join(", "), source }
    }

    async fn open(config: &Buckets, options: ConnectOptions) -> Result<Self, BucketError> {
        let connected = options.connect(config.urls.clone()).await;
        let client = connected.map_err(|error| Self::unreachable(config, error.into()))?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(config.timeout);
        Ok(Self { client, context, config: config.clone() })
    }

    /// The bucket, created when there is none, refused when it may lose what it holds.
    pub(crate) async fn ensure(&self) -> Result<(), BucketError> {
        let store = match self.store().await {
            Ok(store) => store,
            Err(_) => {
                let config = kv::Config {
                    bucket: BUCKET.to_owned(),
                    history: 1,
                    storage: StorageType::File,
                    num_replicas: self.config.replicas,
                    ..Default::default()
                };
                let created = self.context.create_key_value(config).await;
                created.map_err(|error| BucketError::Open(error.into()))?
            }
        };
        let status = store.status().await.map_err(|error| BucketError::Open(error.into()))?;
        let found = &status.info.config;
        for (setting, found, wanted) in [
            ("replicas", found.num_replicas.to_string(), self.config.replicas.to_string()),
            ("max_msgs_per_subject", found.max_messages_per_subject.to_string(), "1".to_owned()),
            ("max_age", format!("{:?}", found.max_age), "0ns".to_owned()),
            ("storage", format!("{:?}", found.storage), format!("{:?}", StorageType::File)),
        ] {
            if found != wanted {
                return Err(BucketError::Differs { setting, found, wanted });
            }
        }
        Ok(())
    }

    /// How long an answer is waited for.
    pub(crate) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    async fn store(&self) -> Result<Store, Cause> {
        Ok(self.context.get_key_value(BUCKET).await?)
    }

    /// What the bucket holds, and whatever comes.
    pub(crate) async fn watch(&self) -> Result<Watch, Cause> {
        Ok(self.store().await?.watch_with_history(">").await?)
    }

    /// The marker, as the stream's leader knows it now.
    pub(crate) async fn marker(&self) -> Result<Option<Marker>, Cause> {
        self.last(MARKER).await
    }

    /// A row, as the stream's leader knows it now.
    pub(crate) async fn row(&self, key: &str) -> Result<Option<Versions>, Cause> {
        self.last(key).await
    }

    async fn last<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Cause> {
        if self.client.connection_state() != State::Connected {
            return Err("not connected".into());
        }
        let found = match nats::last(&self.context, STREAM, &subject(key)).await {
            Err(error) if nats::is_no_stream(&error) => None,
            found => found?,
        };
        match found {
            // The mark of a deleted key is empty.
            Some(found) if !found.payload.is_empty() => {
                Ok(Some(serde_json::from_slice(&found.payload)?))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Takes the right to write from whoever had it: the first lane, from it the next of a first
    /// row, and from each of the row a share of the others. Who was overtaken in a lane claims no
    /// more from it; so whoever has all lanes is the last, and nothing of another's comes after.
    pub(crate) async fn claim(&self) -> Result<Claim, WriteError> {
        let name = format!("{:016x}", rand::random::<u64>());
        let first = self.send(None, take_lane(&name, FIRST_LANE)).await?;
        let mut claim = Claim(vec![first; LANES]);
        for lane in 1..ROW {
            claim.0[lane] = self.send(Some((&claim, FIRST_LANE)), take_lane(&name, lane)).await?;
        }
        let (claimed, name) = (&claim, &name);
        let shares = (0..ROW).map(|parent| async move {
            let mut taken = Vec::new();
            for lane in (parent + ROW..LANES).step_by(ROW) {
                let sequence = self.send(Some((claimed, parent)), take_lane(name, lane)).await?;
                taken.push((lane, sequence));
            }
            Ok::<_, WriteError>(taken)
        });
        let shares = try_join_all(shares).await?;
        for (lane, sequence) in shares.into_iter().flatten() {
            claim.0[lane] = sequence;
        }
        Ok(claim)
    }

    /// Writes a key, if the claim still stands; returns its sequence.
    pub(crate) async fn write(
        &self,
        claim: &Claim,
        lane: usize,
        key: &str,
        value: Bytes,
    ) -> Result<u64, WriteError> {
        self.send(Some((claim, lane)), Publish::unnamed(subject(key), value)).await
    }

    /// Repeats what was refused or not answered while the claim stands: written twice is as good
    /// as written once. Servers refuse also when another's write under a claim of the same lane,
    /// an older one, is under way: whoever came last must not give up then.
    async fn send(
        &self,
        held: Option<(&Claim, usize)>,
        publish: Publish,
    ) -> Result<u64, WriteError> {
        let held = held.map(|(claim, lane)| (subject(&keys::of_lane(lane)), claim.0[lane]));
        let publish = match &held {
            Some((key, sequence)) => publish.expecting_of(key, *sequence),
            None => publish,
        };
        let until = Instant::now() + self.config.timeout * TRIES;
        loop {
            let sent = nats::publish(&self.client, publish.clone(), self.config.timeout).await;
            let error = match sent.map_err(WriteError::from) {
                Err(error @ (WriteError::Fenced | WriteError::Unknown(_))) => error,
                sent => return sent,
            };
            if let Some((key, sequence)) = &held
                && let Ok(last) = nats::last(&self.context, STREAM, key).await
                && last.is_none_or(|last| last.sequence != *sequence)
            {
                return Err(WriteError::Fenced);
            }
            if Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Forgets a message, if it is still there.
    pub(crate) async fn forget(&self, sequence: u64) -> Result<(), Cause> {
        nats::delete(&self.context, STREAM, sequence).await
    }
}

impl From<PublishError> for WriteError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Changed => Self::Fenced,
            PublishError::Refused(text) | PublishError::Full(text) => {
                Self::Refused(text.to_string())
            }
            PublishError::Unserved(text) | PublishError::Unknown(text) => {
                Self::Unknown(text.to_string().into())
            }
        }
    }
}

fn take_lane(name: &str, lane: usize) -> Publish {
    let subject = subject(&keys::of_lane(lane));
    Publish::new(subject, &format!("{name}.{lane}"), name.to_owned().into())
}

fn subject(key: &str) -> String {
    format!("$KV.{BUCKET}.{key}")
}
