//! What is asked of NATS, and what its answers mean.
//!
//! The client library's own acknowledgements are not used: an answer that no server gave counts
//! there as one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{self, DirectGetErrorKind};
use async_nats::{Client, Request, RequestError, Subject};
use bytes::Bytes;
use futures::TryStreamExt;
pub(crate) use nats::{MESSAGE_ID, Publish};
use queue::contract::Cause;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::turnstile::Turnstile;

pub(crate) const TTL: &str = "Nats-TTL";

/// A connection to the servers.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) client: Client,
    pub(crate) context: jetstream::Context,
    timeout: Duration,
    ack_beat: Duration,
    metrics: Metrics,
    turnstile: Arc<Turnstile>,
}

/// Between two groups of acknowledgements to a stream: nobody waits for them but the connection by
/// which a message was delivered. A server ends one message after the other, with a sync each, and
/// nothing of that intake is delivered meanwhile.
const ACK_BEAT: Duration = Duration::from_millis(5);
/// Where servers replicate: for each group there is a round between them.
const ACK_BEAT_REPLICATED: Duration = Duration::from_millis(15);

/// How often a message is sent while no server says what became of it.
const TRIES: usize = 3;

/// Why a message was not stored, or may not have been.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// Nothing was kept.
    #[error("the stream is full: {0}")]
    Full(Arc<str>),
    /// Nothing was kept: the subject has another last message than was expected.
    #[error("the record has changed")]
    Changed,
    /// Nothing was kept.
    #[error("the server refused the message: {0}")]
    Refused(Arc<str>),
    /// It may have been kept.
    #[error("no server answered: {0}")]
    Unknown(Arc<str>),
}

impl From<nats::PublishError> for PublishError {
    fn from(error: nats::PublishError) -> Self {
        match error {
            nats::PublishError::Full(text) => Self::Full(text),
            nats::PublishError::Changed => Self::Changed,
            nats::PublishError::Refused(text) | nats::PublishError::Unserved(text) => {
                Self::Refused(text)
            }
            nats::PublishError::Unknown(text) => Self::Unknown(text),
        }
    }
}

impl Broker {
    pub(crate) fn new(client: Client, config: &Config, metrics: Metrics) -> Self {
        let mut context = jetstream::new(client.clone());
        let timeout = config.timeout();
        context.set_timeout(timeout);
        let ack_beat = if config.is_replicated() { ACK_BEAT_REPLICATED } else { ACK_BEAT };
        Self { client, context, timeout, ack_beat, metrics, turnstile: Arc::default() }
    }

    /// Stores a message; returns its sequence when a majority has it on its disks.
    pub(crate) async fn publish(&self, publish: Publish) -> Result<u64, PublishError> {
        let _pass = match &publish.group {
            Some(group) => Some(self.turnstile.enter(group).await),
            None => None,
        };
        self.metrics.published_bytes.inc_by(publish.payload.len() as u64);
        let published = nats::publish(&self.client, publish, self.timeout).await;
        if matches!(published, Err(nats::PublishError::Unknown(_))) {
            self.metrics.unknown_outcomes.inc();
        }
        Ok(published?)
    }

    /// The same, sent again while no server says what became of it. What is said then of the
    /// repetition says nothing of what was sent before.
    pub(crate) async fn publish_surely(&self, publish: Publish) -> Result<u64, PublishError> {
        let mut stored = self.publish(publish.clone()).await;
        for _ in 1..TRIES {
            let Err(PublishError::Unknown(_)) = stored else { return stored };
            stored = match self.publish(publish.clone()).await {
                Err(PublishError::Refused(why)) => return Err(PublishError::Unknown(why)),
                stored => stored,
            };
        }
        stored
    }

    /// Ends a message of a work queue; returns when a server has said so.
    pub(crate) async fn ack(&self, reply: &Subject) -> Result<(), RequestError> {
        self.turnstile.enter_in_time(stream_of(reply), self.ack_beat).await;
        let request = Request::new().payload("+ACK".into()).timeout(Some(self.timeout));
        self.client.send_request(reply.clone(), request).await.map(drop)
    }

    /// A message of a stream, as `decode` understands it. Only the leader's word counts for its
    /// absence, and only the leader's copy for its being damaged.
    pub(crate) async fn read<T, E: std::fmt::Display>(
        &self,
        stream: &str,
        sequence: u64,
        decode: impl Fn(&Bytes) -> Result<T, E>,
    ) -> Result<Option<Result<T, E>>, Cause> {
        let handle = self.context.get_stream_no_info(stream).await?;
        match handle.direct_get(sequence).await {
            Ok(message) => match decode(&message.payload) {
                Ok(decoded) => return Ok(Some(Ok(decoded))),
                Err(error) => tracing::warn!(%error, stream, sequence, "asking the leader"),
            },
            Err(error) if error.kind() != DirectGetErrorKind::NotFound => {
                tracing::debug!(%error, stream, sequence, "asking the leader");
            }
            Err(_) => {}
        }
        match handle.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(decode(&message.payload))),
            Err(error) => nats::absent(error),
        }
    }

    /// Whether the leader has a message of this subject. The state of a stream is shown to every
    /// role, its messages are not.
    pub(crate) async fn has(&self, stream: &str, subject: &str) -> Result<bool, Cause> {
        let handle = self.context.get_stream_no_info(stream).await?;
        let mut subjects = handle.info_with_subjects(subject).await?;
        if is_leaderless(&subjects.info) {
            return Err("the stream has no leader".into());
        }
        Ok(subjects.try_next().await?.is_some())
    }

    /// The last message of a subject, as the leader knows it.
    pub(crate) async fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StreamMessage>, Cause> {
        nats::last(&self.context, stream, subject).await
    }

    /// Forgets a message that nothing refers to. What is left by an error is an orphan.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<(), Cause> {
        nats::delete(&self.context, stream, sequence).await
    }
}

/// Without a leader any member answers what a stream has, for itself.
fn is_leaderless(info: &stream::Info) -> bool {
    info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_none())
}

/// `$JS.ACK.STREAM` of `$JS.ACK.STREAM.CONSUMER.…`: an acknowledgement is a write to the stream,
/// which loses the message by it.
fn stream_of(reply: &str) -> &str {
    let mut dots = reply.match_indices('.').map(|(at, _)| at);
    dots.nth(2).map_or(reply, |end| &reply[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server 2.15.2 writes it, shortened.
    const INFO: &str = r#"{
        "config": {"name": "intake-s0", "subjects": ["in.s0.>"], "retention": "workqueue",
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "discard": "new",
            "max_msgs_per_subject": -1, "max_msg_size": -1, "storage": "file",
            "num_replicas": 3, "duplicate_window": 120000000000},
        "created": "2026-11-29T12:00:00Z",
        "state": {"messages": 0, "bytes": 0, "first_seq": 0, "last_seq": 0, "consumer_count": 1,
            "first_ts": "0001-01-01T00:00:00Z", "last_ts": "0001-01-01T00:00:00Z"},
        "cluster": CLUSTER
    }"#;

    /// A member that has lost the leader may have forgotten a message that is there.
    #[test]
    fn what_a_stream_without_a_leader_has_is_not_believed() {
        for (cluster, is) in [
            (r#"{"name": "nats", "leader": "n0", "replicas": []}"#, false),
            (
                r#"{"name": "nats", "replicas": [{"name": "n1", "current": false, "active": 0}]}"#,
                true,
            ),
            // A server that is alone is no cluster.
            ("null", false),
        ] {
            let info: stream::Info =
                serde_json::from_str(&INFO.replace("CLUSTER", cluster)).unwrap();
            assert_eq!(is_leaderless(&info), is, "{cluster}");
        }
    }
}
