//! Who knows what became of mail.

use std::io;

use async_trait::async_trait;
use mail_types::QueueId;

use crate::outcomes::Outcomes;
use crate::remains::Remains;

/// Asked for what the queue has forgotten: of this process, or of all that share a queue.
#[async_trait]
pub trait Past: Send + Sync + 'static {
    /// What is kept of a message, oldest first.
    async fn of(&self, message: QueueId) -> Result<Vec<Remains>, PastError>;

    /// What attempts of the last hour came to.
    async fn outcomes(&self) -> Result<Outcomes, PastError>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    #[error("the files of the history cannot be read")]
    Read(#[from] io::Error),
    #[error("the other processes cannot be asked")]
    Others(#[source] Box<dyn std::error::Error + Send + Sync>),
}
