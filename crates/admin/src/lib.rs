//! The operator's door to a queue: HTTP on a Unix socket that only its owner can open.
//!
//! ```text
//! GET  /v1/jobs?phase=deferred      one JobSummary a line, as they are found
//! GET  /v1/messages/QUEUEID         [JobView]
//! POST /v1/actions {action, …}      one Acted a line, as each is done
//! GET  /v1/stats                    Stats
//! ```
//!
//! Long answers are streams of lines, so that a queue of a million is neither collected nor waited
//! for. A failure in the middle of one is a last line `{"error": …}`. It knows no backend.

pub mod client;
mod query;
pub mod server;
mod view;

pub use query::{ActRequest, Query};
pub use view::{JobView, RecipientView};
