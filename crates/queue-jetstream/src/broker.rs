//! What is asked of NATS, and what its answers mean.
//!
//! The client library's own acknowledgements are not used: an answer that no server gave counts
//! there as one, and a publish's error loses whether anything was kept.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, RawMessageError, RawMessageErrorKind};
use async_nats::{Client, HeaderMap, Request, RequestError, RequestErrorKind, Subject};
use bytes::Bytes;
use queue::contract::Cause;
use serde::Deserialize;
use serde_json::json;

use crate::metrics::Metrics;
use crate::turnstile::Turnstile;

pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
pub(crate) const TTL: &str = "Nats-TTL";

/// A connection to the servers.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) client: Client,
    pub(crate) context: jetstream::Context,
    timeout: Duration,
    metrics: Metrics,
    turnstile: Arc<Turnstile>,
}

/// How often a message is sent while no server says what became of it.
const TRIES: usize = 3;

/// A message to be stored.
#[derive(Clone)]
pub(crate) struct Publish {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
    headers: HeaderMap,
    /// Those with which it goes.
    group: Option<String>,
}

impl Publish {
    /// `id` names the message: published again under it, it is stored once.
    pub(crate) fn new(subject: String, id: &str, payload: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, id);
        Self { subject, payload, headers, group: None }
    }

    /// Only if the last message of the subject has this sequence; 0: if there is none.
    pub(crate) fn expecting(mut self, sequence: u64) -> Self {
        self.headers.insert(EXPECTED_LAST, sequence.to_string());
        self
    }

    /// Goes together with others of the stream.
    pub(crate) fn grouped(mut self, stream: String) -> Self {
        self.group = Some(stream);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value);
        self
    }
}

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

/// What a stream answers to a publish.
#[derive(Deserialize)]
struct Answer {
    seq: Option<u64>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    err_code: u64,
    description: String,
}

impl AnswerError {
    fn meaning(self) -> PublishError {
        let text: Arc<str> = format!("{} ({})", self.description, self.err_code).into();
        match self.err_code {
            // Wrong last sequence, also of a subject.
            10071 | 10164 => PublishError::Changed,
            // No room: of the account, the server, the storage.
            10002 | 10023 | 10047 | 10028 => PublishError::Full(text),
            // The store failed; with `discard: new` mostly because a limit is reached.
            10077 if self.description.contains("maximum") => PublishError::Full(text),
            // The same message, sent before, is under way to the other servers.
            10158 => PublishError::Unknown(text),
            _ => PublishError::Refused(text),
        }
    }
}

impl Broker {
    pub(crate) fn new(client: Client, timeout: Duration, metrics: Metrics) -> Self {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(timeout);
        Self { client, context, timeout, metrics, turnstile: Arc::default() }
    }

    /// Stores a message; returns its sequence when a majority has it on its disks.
    pub(crate) async fn publish(&self, publish: Publish) -> Result<u64, PublishError> {
        let _pass = match &publish.group {
            Some(group) => Some(self.turnstile.enter(group).await),
            None => None,
        };
        self.metrics.published_bytes.inc_by(publish.payload.len() as u64);
        let request = Request::new()
            .payload(publish.payload)
            .headers(publish.headers)
            .timeout(Some(self.timeout));
        let answer = match self.client.send_request(publish.subject, request).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.not_answered(&error)),
        };
        let answer: Answer = serde_json::from_slice(&answer.payload)
            .map_err(|error| PublishError::Unknown(error.to_string().into()))?;
        match answer {
            Answer { error: Some(error), .. } => Err(error.meaning()),
            Answer { seq: Some(seq), .. } => Ok(seq),
            Answer { .. } => Err(PublishError::Unknown("an answer without a sequence".into())),
        }
    }

    fn not_answered(&self, error: &RequestError) -> PublishError {
        let text: Arc<str> = error.to_string().into();
        match error.kind() {
            RequestErrorKind::NoResponders
            | RequestErrorKind::InvalidSubject
            | RequestErrorKind::MaxPayloadExceeded => PublishError::Refused(text),
            RequestErrorKind::TimedOut | RequestErrorKind::Other => {
                self.metrics.unknown_outcomes.inc();
                PublishError::Unknown(text)
            }
        }
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
        let _pass = self.turnstile.enter(consumer_of(reply)).await;
        let request = Request::new().payload("+ACK".into()).timeout(Some(self.timeout));
        self.client.send_request(reply.clone(), request).await.map(drop)
    }

    /// A message of a stream. Only the leader's word counts for its absence.
    pub(crate) async fn read(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StreamMessage>, Cause> {
        let handle = self.context.get_stream_no_info(stream).await?;
        match handle.direct_get(sequence).await {
            Ok(message) => return Ok(Some(message)),
            Err(error) if error.kind() != DirectGetErrorKind::NotFound => {
                tracing::debug!(%error, stream, sequence, "asking the leader");
            }
            Err(_) => {}
        }
        match handle.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => absent(error),
        }
    }

    /// The last message of a subject, as the leader knows it.
    pub(crate) async fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StreamMessage>, Cause> {
        let handle = self.context.get_stream_no_info(stream).await?;
        match handle.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => absent(error),
        }
    }

    /// Forgets a message that nothing refers to. What is left by an error is an orphan.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<(), Cause> {
        // Not the library's call: that overwrites the message on the disk.
        let subject = format!("STREAM.MSG.DELETE.{stream}");
        let wanted = json!({"seq": sequence, "no_erase": true});
        let _: serde_json::Value = self.context.request(subject, &wanted).await?;
        Ok(())
    }
}

/// Stream and consumer of `$JS.ACK.STREAM.CONSUMER.…`.
fn consumer_of(reply: &str) -> &str {
    let mut dots = reply.match_indices('.').map(|(at, _)| at);
    dots.nth(3).map_or(reply, |end| &reply[..end])
}

fn absent(error: RawMessageError) -> Result<Option<StreamMessage>, Cause> {
    match error.kind() {
        RawMessageErrorKind::NoMessageFound => Ok(None),
        RawMessageErrorKind::InvalidSubject
        | RawMessageErrorKind::JetStream(_)
        | RawMessageErrorKind::Other => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(err_code: u64, description: &str) -> PublishError {
        AnswerError { err_code, description: description.to_owned() }.meaning()
    }

    #[test]
    fn a_message_that_is_under_way_may_be_kept() {
        let in_process = meaning(10158, "duplicate message id is in process");
        assert!(matches!(in_process, PublishError::Unknown(_)), "{in_process}");
        let refused = meaning(10054, "message size exceeds maximum allowed");
        assert!(matches!(refused, PublishError::Refused(_)), "{refused}");
    }
}
