//! A message as it is stored, apart from its content.

use std::sync::Arc;

use mail_types::{Envelope, QueueId};
use serde::{Deserialize, Serialize};

use super::{StoredError, VERSION, wire};
use crate::model::NewJob;

/// Everything about a message that does not change, but for its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMessage {
    pub id: QueueId,
    pub envelope: Arc<Envelope>,
    pub jobs: Vec<NewJob>,
    /// Octets of the header fields that we added.
    pub prefix_bytes: u64,
    /// Octets of the message's own header block.
    pub header_bytes: u64,
    pub body_bytes: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    id: QueueId,
    envelope: &'a Envelope,
    jobs: &'a [NewJob],
    lengths: [u64; 3],
}

#[derive(Deserialize)]
struct Read {
    v: u32,
    id: QueueId,
    envelope: Envelope,
    jobs: Vec<NewJob>,
    lengths: [u64; 3],
}

impl StoredMessage {
    /// Octets of the content.
    pub fn size(&self) -> u64 {
        self.prefix_bytes + self.header_bytes + self.body_bytes
    }

    pub fn encode(&self) -> Vec<u8> {
        wire::encode(&Written {
            v: VERSION,
            id: self.id,
            envelope: &self.envelope,
            jobs: &self.jobs,
            lengths: [self.prefix_bytes, self.header_bytes, self.body_bytes],
        })
    }

    pub fn decode(json: &[u8]) -> Result<Self, StoredError> {
        let read: Read = wire::decode(json, |read: &Read| read.v)?;
        let [prefix_bytes, header_bytes, body_bytes] = read.lengths;
        Ok(Self {
            id: read.id,
            envelope: Arc::new(read.envelope),
            jobs: read.jobs,
            prefix_bytes,
            header_bytes,
            body_bytes,
        })
    }
}
