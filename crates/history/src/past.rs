//! Who knows what became of mail.

use std::io;

use async_trait::async_trait;
use mail_types::QueueId;

use crate::outcomes::Outcomes;
use crate::remains::Remains;

/// Asked for what the queue has forgotten: of this process, or of all that share a queue.
#[async_trait]
pub trait Past: Send + Sync + 'static {
    /// What is kept of a message and of the DSNs that were made for it, oldest first. There may be
    /// remains of others among them: of what came in the same millisecond.
    async fn of(&self, message: QueueId) -> Result<Kept, PastError>;

    /// What attempts of the last hour came to.
    async fn outcomes(&self) -> Result<Outcomes, PastError>;
}

/// What those who were asked for a message have kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    pub remains: Vec<Remains>,
    /// Processes of which all or something is missing.
    pub unheard: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    #[error("the files of the history cannot be read")]
    Read(#[from] io::Error),
    #[error("the other processes cannot be asked")]
    Others(#[source] Box<dyn std::error::Error + Send + Sync>),
}
