//! The queue on NATS JetStream: mail that no process owns.
//!
//! ```text
//!                one publish, the commit point
//! Draft ── body chunks ──▶ body-<n> ◀── content, once, of what outlives its first attempt
//!       └─ envelope ─────▶ intake     ──pull──▶ index of the owner of partition p ── ack: done
//!                                                  └─ jobs-<p>: one record a job, by CAS
//! ```
//!
//! **Decides.** A message for one next hop waits in the intake of the hop's partition, content
//! inline when small; an acknowledged publish is the commit, an acknowledged `ack` its end. What
//! outlives its first attempt has its content copied to a body stream, once, and goes on as one
//! record of at most 2 KB in `jobs-<p>`, each step a compare-and-set on its sequence. A message
//! for several next hops waits in the lane `split` until somebody made such records of it. The
//! owner of a partition reads its records at the start and keeps what the [`queue::schedule`]
//! needs in memory, as the embedded log does: a deferred job costs memory and no message.
//!
//! **Does not know** SMTP, retries, nor what a bounce is.
//!
//! **Failure behaviour.** A publish without an answer is [`queue::AcceptError::Unknown`] and is
//! resolved by repeating it under the same message id. Whoever has lost a partition finds its
//! compare-and-set refused. Nothing is deleted by time but marks of jobs that have ended.

mod act;
mod arriving;
mod backlog;
mod body;
mod broker;
mod census;
mod config;
mod crowd;
mod draft;
mod end;
mod everybody;
mod everywhere;
mod frame;
mod hand;
mod here;
mod index;
mod inspect;
mod intake;
mod jet_queue;
mod jobs;
mod lately;
mod lease;
mod metrics;
mod names;
mod orphans;
mod ownership;
mod park;
pub mod permissions;
mod piece;
mod post;
mod pull;
mod read;
mod record;
mod rhythm;
mod server;
mod shared;
mod split;
mod step;
mod streams;
mod turnstile;
mod unreadable;
mod usage;

pub use config::Config;
pub use everybody::{Answer, Heard};
pub use inspect::{Inspected, inspect};
pub use jet_queue::{JetQueue, OpenError};
pub use metrics::Metrics;
pub use server::{ServerError, Silent};
pub use streams::StreamError;
