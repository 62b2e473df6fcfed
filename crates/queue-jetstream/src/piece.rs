//! Content on its way from the process that holds a job to the one that an operator asks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use queue::contract::Cause;
use queue::{ContentError, JobId};
use serde::{Deserialize, Serialize};

use crate::read;
use crate::shared::Shared;

/// Part of the content of a message, small enough for an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Piece {
    /// In base64, of a content of so many octets; none at its end.
    Octets {
        of: u64,
        octets: String,
    },
    Damaged(Box<str>),
    Unavailable(String),
}

impl Piece {
    /// The piece that begins at an octet.
    pub(crate) async fn read(shared: &Shared, job: JobId, at: u64) -> Self {
        let read = async {
            let source = read::source(shared, job).await?;
            Ok((source.message().size(), source.piece(shared, at).await?))
        };
        match read.await {
            Ok((of, octets)) => Self::Octets { of, octets: STANDARD.encode(octets) },
            Err(ContentError::Damaged(what)) => Self::Damaged(what),
            Err(ContentError::Unavailable(why)) => Self::Unavailable(why.to_string()),
        }
    }

    /// The octets, and how many the whole content has.
    pub(crate) fn octets(self) -> Result<(Bytes, u64), ContentError> {
        match self {
            Self::Octets { of, octets } => {
                let octets = STANDARD.decode(octets);
                Ok((octets.map_err(|error| unavailable(error.into()))?.into(), of))
            }
            Self::Damaged(what) => Err(ContentError::Damaged(what)),
            Self::Unavailable(why) => Err(unavailable(why.into())),
        }
    }
}

fn unavailable(cause: Cause) -> ContentError {
    ContentError::Unavailable(cause)
}
