//! What is stored: a message on its way in, and a job that outlived its first attempt.

use std::sync::Arc;

use bytes::Bytes;
use mail_types::TenantId;
use queue::NextHop;
use queue::stored::{StoredError, StoredMessage, StoredState};
use serde::{Deserialize, Serialize};

use crate::frame::{self, FrameError, Section};

/// Why a record cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Stored(#[from] StoredError),
    #[error("the record is damaged")]
    Json(#[from] serde_json::Error),
}

impl RecordError {
    /// Whether a newer program wrote it. The version of a frame is under no checksum, and tells
    /// nothing of what was not understood.
    pub(crate) fn is_newer(&self) -> bool {
        matches!(self, Self::Stored(StoredError::Newer(_)))
    }
}

/// A part of content in a body stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Chunk {
    #[serde(rename = "q")]
    pub(crate) sequence: u64,
    #[serde(rename = "n")]
    pub(crate) octets: u32,
    #[serde(rename = "c")]
    pub(crate) checksum: u32,
}

/// Content in a body stream, in its order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Chunks {
    #[serde(rename = "s")]
    pub(crate) stream: u16,
    #[serde(rename = "p")]
    pub(crate) parts: Vec<Chunk>,
}

/// A message as it was committed. Its content is `inline` and then `chunks`.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) chunks: Chunks,
    pub(crate) inline: Section,
}

impl Arrival {
    pub(crate) fn encode(&self) -> Bytes {
        frame::join(&[&self.message.encode(), &json(&self.chunks), &self.inline.octets])
    }

    pub(crate) fn decode(record: &Bytes) -> Result<Self, RecordError> {
        let [message, chunks, inline] = frame::split(record)?;
        let message = Arc::new(StoredMessage::decode(&message.intact()?)?);
        Ok(Self { message, chunks: serde_json::from_slice(&chunks.intact()?)?, inline })
    }
}

/// A message whose content is in a body stream, all of it.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) chunks: Chunks,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Bytes {
        frame::join(&[&self.message.encode(), &json(&self.chunks)])
    }

    pub(crate) fn decode(record: &Bytes) -> Result<Self, RecordError> {
        let [message, chunks] = frame::split(record)?;
        let message = Arc::new(StoredMessage::decode(&message.intact()?)?);
        Ok(Self { message, chunks: serde_json::from_slice(&chunks.intact()?)? })
    }
}

/// Where a manifest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ManifestPlace {
    #[serde(rename = "s")]
    pub(crate) stream: u16,
    #[serde(rename = "q")]
    pub(crate) sequence: u64,
}

/// What a job's record says that does not change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobHead {
    pub(crate) tenant: TenantId,
    pub(crate) next_hop: NextHop,
    /// Octets of the message's content.
    pub(crate) size: u64,
    pub(crate) manifest: ManifestPlace,
}

/// A job that outlived its first attempt.
#[derive(Clone, Debug)]
pub(crate) struct JobRecord {
    pub(crate) head: JobHead,
    pub(crate) state: StoredState,
}

impl JobRecord {
    pub(crate) fn encode(&self) -> Bytes {
        frame::join(&[&json(&self.head), &self.state.encode()])
    }

    pub(crate) fn decode(record: &Bytes) -> Result<Self, RecordError> {
        let [head, state] = frame::split(record)?;
        let (head, state) = (head.intact()?, state.intact()?);
        Ok(Self { head: serde_json::from_slice(&head)?, state: StoredState::decode(&state)? })
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Our records have string keys only, and a `Vec` does not fail.
    serde_json::to_vec(value).expect("a record is JSON")
}
