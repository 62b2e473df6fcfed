//! Storing a message in a stream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;

/// The header with the name of a message.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The sequence that the subject's last message must have.
const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// Of which subject, when it is not the message's own.
const EXPECTED_LAST_OF: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Publish {
    pub subject: String,
    pub payload: Bytes,
    /// For a caller that sends some together; no part of the message.
    pub group: Option<String>,
    headers: HeaderMap,
}

impl Publish {
    /// `id` names the message: published again under it, it is stored once.
    pub fn new(subject: String, id: &str, payload: Bytes) -> Self {
        Self::unnamed(subject, payload).header(MESSAGE_ID, id)
    }

    /// Published again, it is stored again.
    pub fn unnamed(subject: String, payload: Bytes) -> Self {
        Self { subject, payload, group: None, headers: HeaderMap::new() }
    }

    /// Only if the last message of the subject has this sequence; 0: if there is none.
    #[must_use]
    pub fn expecting(self, sequence: u64) -> Self {
        self.header(EXPECTED_LAST, &sequence.to_string())
    }

    /// The same of another subject.
    #[must_use]
    pub fn expecting_of(self, subject: &str, sequence: u64) -> Self {
        self.expecting(sequence).header(EXPECTED_LAST_OF, subject)
    }

    #[must_use]
    pub fn grouped(self, group: String) -> Self {
        Self { group: Some(group), ..self }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// Why a message was not stored, or may not have been.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// Nothing was kept.
    #[error("the stream is full: {0}")]
    Full(Arc<str>),
    /// Nothing was kept: the subject has another last message than was expected.
    #[error("the record has changed")]
    Changed,
    /// Nothing was kept.
    #[error("the server refused the message: {0}")]
    Refused(Arc<str>),
    /// Nothing was kept: there is no such stream, or it has no leader at the moment.
    #[error("no server has the stream: {0}")]
    Unserved(Arc<str>),
    /// It may have been kept.
    #[error("no server answered: {0}")]
    Unknown(Arc<str>),
}

/// What a stream answers.
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

/// Stores a message; returns its sequence when a majority has it on its disks.
///
/// # Errors
/// Whether it was kept, each says.
pub async fn publish(
    client: &Client,
    publish: Publish,
    timeout: Duration,
) -> Result<u64, PublishError> {
    let request = Request::new().payload(publish.payload).headers(publish.headers);
    let answer = client.send_request(publish.subject, request.timeout(Some(timeout))).await;
    let answer = answer.map_err(|error| not_answered(&error))?;
    meaning(&answer.payload)
}

fn meaning(answer: &[u8]) -> Result<u64, PublishError> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| PublishError::Unknown(error.to_string().into()))?;
    match answer {
        Answer { error: Some(error), .. } => Err(error.meaning()),
        Answer { seq: Some(sequence), .. } => Ok(sequence),
        Answer { .. } => Err(PublishError::Unknown("an answer without a sequence".into())),
    }
}

fn not_answered(error: &async_nats::RequestError) -> PublishError {
    let text: Arc<str> = error.to_string().into();
    match error.kind() {
        RequestErrorKind::NoResponders => PublishError::Unserved(text),
        RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
            PublishError::Refused(text)
        }
        RequestErrorKind::TimedOut | RequestErrorKind::Other => PublishError::Unknown(text),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_tell_what_was_kept() {
        let error = |code: u64, text: &str| {
            let answer = format!(r#"{{"error":{{"err_code":{code},"description":"{text}"}}}}"#);
            meaning(answer.as_bytes()).unwrap_err()
        };
        assert_eq!(meaning(br#"{"stream":"s","seq":7}"#).unwrap(), 7);
        assert!(matches!(error(10071, "wrong last sequence: 3"), PublishError::Changed));
        assert!(matches!(error(10164, "wrong last sequence"), PublishError::Changed));
        assert!(matches!(error(10077, "maximum bytes exceeded"), PublishError::Full(_)));
        assert!(matches!(error(10077, "i/o error"), PublishError::Refused(_)));
        assert!(matches!(error(10023, "insufficient resources"), PublishError::Full(_)));
        let in_process = error(10158, "duplicate message id is in process");
        assert!(matches!(in_process, PublishError::Unknown(_)), "{in_process}");
        let large = error(10054, "message size exceeds maximum allowed");
        assert!(matches!(large, PublishError::Refused(_)), "{large}");
        assert!(matches!(meaning(b"{}").unwrap_err(), PublishError::Unknown(_)));
        assert!(matches!(meaning(b"").unwrap_err(), PublishError::Unknown(_)));
    }
}
