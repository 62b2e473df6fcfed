//! Records that are changed by compare-and-set.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{self, DiscardPolicy, StorageType};
use nats::{Cause, Publish, PublishError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::Servers;

/// How often a change is tried that others came before.
const TRIES: usize = 8;
/// The longest that a change or an answer is waited for: a client waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Records that are changed at the same time, at most.
const TURNS: usize = 64;

/// Who makes a bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Whoever writes first.
    Writer,
    /// [`Bucket::ensure`], and nobody before: an empty one must not be in the place of one that is
    /// being restored.
    Other,
}

/// A bucket and how it is made.
#[derive(Clone)]
pub(crate) struct Bucket {
    servers: Servers,
    name: &'static str,
    maker: Maker,
    stream: stream::Config,
    /// By key: sessions of this process do not come before each other again and again.
    turns: Arc<[Mutex<()>]>,
}

/// Why a record was not changed, or may not have been.
#[derive(Debug)]
pub(crate) enum ChangeError<E> {
    /// Whoever was to change it would not.
    Refused(E),
    Unknown(String),
}

impl<E> From<Cause> for ChangeError<E> {
    fn from(cause: Cause) -> Self {
        Self::Unknown(cause.to_string())
    }
}

impl Bucket {
    pub(crate) fn new(
        servers: Servers,
        name: &'static str,
        maker: Maker,
        storage: StorageType,
        max_age: Duration,
    ) -> Self {
        let stream = stream::Config {
            name: format!("KV_{name}"),
            subjects: vec![format!("$KV.{name}.>")],
            discard: DiscardPolicy::New,
            storage,
            num_replicas: servers.config.replicas,
            max_messages_per_subject: 1,
            max_age,
            allow_direct: true,
            allow_rollup: true,
            ..Default::default()
        };
        let turns = (0..TURNS).map(|_| Mutex::default()).collect();
        Self { servers, name, maker, stream, turns }
    }

    /// A record, as the leader knows it; as new when there is none.
    pub(crate) async fn get<T: Default + DeserializeOwned>(&self, key: &str) -> Result<T, Cause> {
        let (_, record) = tokio::time::timeout(PATIENCE, self.read(key)).await??;
        Ok(record)
    }

    /// Changes a record. `change` is called again when another came before.
    pub(crate) async fn change<T, R, E>(
        &self,
        key: &str,
        change: impl Fn(&mut T) -> Result<R, E>,
    ) -> Result<R, ChangeError<E>>
    where
        T: Default + Serialize + DeserializeOwned,
    {
        let in_turn = async {
            let _turn = self.turn(key).lock().await;
            self.try_to_change(key, change).await
        };
        let changed = tokio::time::timeout(PATIENCE, in_turn).await;
        changed.unwrap_or_else(|late| Err(ChangeError::Unknown(late.to_string())))
    }

    async fn try_to_change<T, R, E>(
        &self,
        key: &str,
        change: impl Fn(&mut T) -> Result<R, E>,
    ) -> Result<R, ChangeError<E>>
    where
        T: Default + Serialize + DeserializeOwned,
    {
        for _ in 0..TRIES {
            let (sequence, mut record) = self.read(key).await?;
            let done = change(&mut record).map_err(ChangeError::Refused)?;
            let value = serde_json::to_vec(&record).map_err(Cause::from)?;
            let publish = Publish::unnamed(self.subject(key), value.into()).expecting(sequence);
            let timeout = self.servers.config.timeout;
            match nats::publish(&self.servers.client, publish, timeout).await {
                Ok(_) => return Ok(done),
                Err(PublishError::Changed) => {}
                Err(PublishError::Unserved(_)) if self.maker == Maker::Writer => {
                    self.make().await?;
                }
                Err(
                    error @ (PublishError::Unserved(_)
                    | PublishError::Full(_)
                    | PublishError::Refused(_)
                    | PublishError::Unknown(_)),
                ) => return Err(ChangeError::Unknown(error.to_string())),
            }
        }
        Err(ChangeError::Unknown("others change it at the same time".to_owned()))
    }

    fn turn(&self, key: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        &self.turns[hasher.finish() as usize % TURNS]
    }

    /// With the sequence of the record, or 0.
    async fn read<T: Default + DeserializeOwned>(&self, key: &str) -> Result<(u64, T), Cause> {
        if self.servers.client.connection_state() != State::Connected {
            return Err("not connected".into());
        }
        let found = nats::last(&self.servers.context, &self.stream.name, &self.subject(key)).await;
        let found = match found {
            Err(error) if nats::is_no_stream(&error) => None,
            found => found?,
        };
        let Some(found) = found else { return Ok((0, T::default())) };
        // What cannot be read is written over: nothing depends on it for long.
        let record = serde_json::from_slice(&found.payload).unwrap_or_else(|error| {
            tracing::warn!(event = "record_unreadable", bucket = self.name, key, %error);
            T::default()
        });
        Ok((found.sequence, record))
    }

    /// Makes the bucket if it is not there.
    pub(crate) async fn ensure(&self) -> Result<(), Cause> {
        let error = match self.servers.context.get_stream(&self.stream.name).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let is_absent = matches!(error.kind(), GetStreamErrorKind::JetStream(api)
            if api.error_code() == ErrorCode::STREAM_NOT_FOUND);
        if is_absent { self.make().await } else { Err(error.into()) }
    }

    async fn make(&self) -> Result<(), Cause> {
        self.servers.context.create_stream(self.stream.clone()).await?;
        tracing::info!(event = "bucket_made", bucket = self.name);
        Ok(())
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }
}
