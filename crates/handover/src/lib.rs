//! Handing a message over: one job's recipients over one session, by SMTP or LMTP. Shared by the
//! roles that deliver.
//!
//! ```text
//! role: stream ─▶ Connection::new, ready ─▶ Offer::make ─▶ Transacted
//!                                              │ lease, content       │
//!                                           ClientSession             └─▶ verdicts ─▶ outcome
//! ```
//!
//! Here octets are carried between the sans-I/O session of `smtp` and a stream, the lease is
//! checked before the end of the content goes out, and replies become outcomes. It knows neither
//! how a peer is found nor whether there is TLS, and opens no connection.
//!
//! Failure behaviour: who was answered keeps that answer, whatever happens to the session later. A
//! session lost after the end of the content leaves the others deferred: the message may be
//! delivered twice to them, not never. What is wrong on our side never bounces.

mod connection;
mod failure;
mod forward;
mod metrics;
mod transaction;

pub use connection::{Authentication, Connection};
pub use failure::{
    MessageFailure, as_transient, may_have_taken, session_report, unanswered_outcome, verdicts,
};
pub use metrics::Metrics;
pub use transaction::{Offer, Transacted};
