//! What became of mail that the queue is done with.
//!
//! ```text
//! roles ── Watched (is a Queue) ──▶ the queue
//!             └─ History ──▶ dataDir/history/{new,old}   Remains, one JSON object a line
//!                        └─▶ memory                      Outcomes of the last hour
//! ```
//!
//! The queue forgets a job with its last recipient. A [`Watched`] queue tells a [`History`] of each
//! outcome that was recorded; the history keeps the whole job when it ended or caused a DSN, in
//! two files: when the newer is full, the older makes room for it. Who asks for a message has the
//! files read, once: a DSN is found with the message that it is for, since their ids begin with
//! the same time. There is no index, and nothing of it in memory.
//!
//! **Does not know** backends, nor other processes: each has the history of what it did itself.
//!
//! **Failure behaviour.** Mail does not depend on it. A line is in the kernel's hands when `settle`
//! returns: `kill -9` loses none, a power cut the last ones. What cannot be written is logged and
//! missing.

mod config;
mod files;
mod history;
mod outcomes;
mod past;
mod reason;
mod remains;
mod watched;

pub use config::Config;
pub use history::History;
pub use outcomes::{Outcome, OutcomeRow, Outcomes};
pub use past::{Kept, Past, PastError};
pub use reason::reason;
pub use remains::{Made, Remains, Settled, What};
pub use watched::Watched;
