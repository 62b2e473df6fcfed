//! NATS as Postrider asks it: what the client library gets wrong, put right once.
//!
//! Traps of async-nats 0.51, each found by experiment:
//! - its acknowledgement of a publish counts an answer that no server gave ("503 no responders"),
//!   and its error does not tell whether anything was kept: [`publish()`] reads what
//!   the stream answers;
//! - `delete_message` overwrites the message on the disk, which costs more: [`delete`] does not;
//! - a direct get may be answered by a server that lags: only the leader's word, [`last`], counts
//!   for what is not there.
//!
//! **Does not know** what is stored, nor which streams there are.
//!
//! **Failure behaviour.** Nothing is repeated here. Each error tells whether something was kept.

mod connection;
mod publish;
mod stream;
mod token;

pub use connection::{Buckets, Login};
pub use publish::{MESSAGE_ID, Publish, PublishError, publish};
pub use stream::{absent, delete, is_no_stream, last};
pub use token::{name, token};

/// What the client library says.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;
