//! What is asked of NATS, and what its answers mean.

use async_nats::connection::State;
use async_nats::jetstream::kv::{self, Store, Watch};
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures::StreamExt;
use nats::{Cause, Login, Publish, PublishError};

use crate::Config;
use crate::contents::Contents;
use crate::keys::{self, BUCKET, MARKER};
use crate::record::Marker;

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
    #[error("another has begun to publish")]
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
    config: Config,
}

/// Lanes that a writer has: in each, one write is under way at a time, for servers refuse a second
/// one under the same condition.
pub(crate) const LANES: usize = 16;

/// The right to write, until another claims it: the sequences of its lanes' keys.
#[derive(Clone, Debug)]
pub(crate) struct Claim(Vec<u64>);

/// The lane in which a claim can be taken away.
pub(crate) const FIRST_LANE: usize = 0;

impl Bucket {
    /// Fails when no server is there.
    pub(crate) async fn connect(config: &Config) -> Result<Self, BucketError> {
        let options = options(config).await;
        Self::open(config, options.map_err(|source| Self::unreachable(config, source))?).await
    }

    /// Servers may come later: until then nothing is answered.
    pub(crate) async fn connect_later(config: &Config) -> Result<Self, BucketError> {
        let options = options(config).await.map(ConnectOptions::retry_on_initial_connect);
        Self::open(config, options.map_err(|source| Self::unreachable(config, source))?).await
    }

    fn unreachable(config: &Config, source: Cause) -> BucketError {
        BucketError::Connect { urls: config.urls.join(", "), source }
    }

    async fn open(config: &Config, options: ConnectOptions) -> Result<Self, BucketError> {
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

    async fn store(&self) -> Result<Store, Cause> {
        Ok(self.context.get_key_value(BUCKET).await?)
    }

    /// What the bucket holds, and whatever comes.
    pub(crate) async fn watch(&self) -> Result<Watch, Cause> {
        Ok(self.store().await?.watch_with_history(">").await?)
    }

    /// The marker, as the stream's leader knows it now.
    pub(crate) async fn marker(&self) -> Result<Option<Marker>, Cause> {
        if self.client.connection_state() != State::Connected {
            return Err("not connected".into());
        }
        let found = match nats::last(&self.context, STREAM, &subject(MARKER)).await {
            Err(error) if is_no_stream(&error) => None,
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

    /// Takes the right to write from whoever had it. Who has the first lane takes the others; so
    /// whoever has the last one has all, and nothing of another's comes after it.
    pub(crate) async fn claim(&self) -> Result<Claim, WriteError> {
        let name = Bytes::from(format!("{:016x}", rand::random::<u64>()));
        let key = subject(&keys::of_lane(FIRST_LANE));
        let first = self.send(Publish::unnamed(key, name.clone())).await?;
        let mut claim = Claim(vec![first]);
        for lane in 1..LANES {
            let key = keys::of_lane(lane);
            let taken = self.write(&claim, FIRST_LANE, &key, name.clone()).await?;
            claim.0.push(taken);
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
        let publish = Publish::unnamed(subject(key), value);
        self.send(publish.expecting_of(&subject(&keys::of_lane(lane)), claim.0[lane])).await
    }

    async fn send(&self, publish: Publish) -> Result<u64, WriteError> {
        Ok(nats::publish(&self.client, publish, self.config.timeout).await?)
    }

    /// Forgets a message, if it is still there.
    pub(crate) async fn forget(&self, sequence: u64) -> Result<(), Cause> {
        nats::delete(&self.context, STREAM, sequence).await
    }

    /// All that was written before `claim`.
    pub(crate) async fn contents_before(&self, claim: &Claim) -> Result<Contents, BucketError> {
        let last = claim.0.last().copied().unwrap_or_default();
        self.read(|entry| entry.revision >= last).await
    }

    /// All that there is now. A key that is written meanwhile may be missing.
    pub(crate) async fn contents(&self) -> Result<Contents, BucketError> {
        self.read(|entry| entry.seen_current).await
    }

    async fn read(&self, is_last: impl Fn(&kv::Entry) -> bool) -> Result<Contents, BucketError> {
        let mut contents = Contents::default();
        let mut watch = self.watch().await.map_err(BucketError::Read)?;
        loop {
            let next = tokio::time::timeout(self.config.timeout, watch.next()).await;
            let next = next.map_err(|late| BucketError::Read(late.into()))?;
            let entry = next.ok_or_else(|| BucketError::Read("the watch ended".into()))?;
            let entry = entry.map_err(|error| BucketError::Read(error.into()))?;
            contents.take(&entry).map_err(|error| BucketError::Read(error.into()))?;
            if is_last(&entry) {
                return Ok(contents);
            }
        }
    }
}

async fn options(config: &Config) -> Result<ConnectOptions, Cause> {
    let login = Login {
        nkey_file: config.nkey_file.as_deref(),
        ca_file: config.ca_file.as_deref(),
        inbox_prefix: &config.inbox_prefix,
        timeout: config.timeout,
    };
    login.options().await
}

impl From<PublishError> for WriteError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Changed => Self::Fenced,
            PublishError::Refused(text) | PublishError::Full(text) => {
                Self::Refused(text.to_string())
            }
            PublishError::Unknown(text) => Self::Unknown(text.to_string().into()),
        }
    }
}

fn is_no_stream(error: &Cause) -> bool {
    let Some(error) = error.downcast_ref::<RawMessageError>() else { return false };
    match error.kind() {
        RawMessageErrorKind::JetStream(api) => api.error_code() == ErrorCode::STREAM_NOT_FOUND,
        RawMessageErrorKind::NoMessageFound
        | RawMessageErrorKind::InvalidSubject
        | RawMessageErrorKind::Other => false,
    }
}

fn subject(key: &str) -> String {
    format!("$KV.{BUCKET}.{key}")
}
