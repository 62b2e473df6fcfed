//! Where a line and where a message ends, decided before anything is parsed.

mod chunk;
mod data;
mod line;

pub use chunk::{ChunkChecker, LastLine};
pub use data::{DataDecoder, DataStep};
pub use line::{Line, LineError, LineReader};

/// Why content is refused whole (RFC 5321 §2.3.8, §4.5.3.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ContentFault {
    /// Somebody downstream could take it for the end of a line, and of the message.
    #[error("content has a CR that no LF follows")]
    BareCr,
    #[error("content has an LF that no CR precedes")]
    BareLf,
    #[error("content has a line longer than this server accepts")]
    LineTooLong,
}
