//! What backends write down: a message once, and the state of a job after each step.
//!
//! ```text
//! StoredMessage  envelope, jobs with their recipients, lengths of the content's parts   at commit
//! StoredState    place, attempts, history, what was heard about which recipients        per step
//! ```
//!
//! Both are JSON with a version `v`. A version N reads N and N-1; a newer one is refused, so that
//! a program that was rolled back does not guess. The content itself is the backend's.
//!
//! A state is small, because every step writes one: equal reports are written once, with the
//! places of their recipients; texts are bounded when they are stored.

mod act;
mod message;
mod recipients;
mod state;
mod wire;

pub use act::{Acting, Change};
pub use message::StoredMessage;
pub use state::{Place, Request, StoredState};

/// The version that is written.
pub const VERSION: u32 = 1;

/// A record that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    #[error("the record has version {0}, which is newer than this program: upgrade it")]
    Newer(u32),
    #[error("the record is damaged")]
    Damaged(#[source] serde_json::Error),
}
