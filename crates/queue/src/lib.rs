//! The durable queue: what backends promise, the model they store, and the suite that proves it.
//!
//! ```text
//!            Envelope                       NewJob: message x next hop
//! ingress ── begin ──▶ Draft ── write* ── commit(Head, [NewJob]) ──▶ durable, then 250
//!                                                   │
//!                     ┌──────── Job ◀── lease ──────┘
//! worker, MDA ────────┤
//!                     └─ settle(Settlement) ──▶ Done | Defer | Hold | Quarantine  (+ follow-ups)
//! ```
//!
//! The crate knows neither SMTP nor a disk. *Storing* is a backend's; *deciding when* is the
//! worker's (crate `retry`); *who is next* among what is due is [`schedule`], which backends share.
//! So is [`stored`], the form of what they write, and [`conformance`], the suite they must pass.
//! [`simulated`] is a backend in memory for the tests of those who use a queue.
//!
//! Failure behaviour: each error of [`contract`] says what was kept and whether the caller may go
//! on. Nothing that was committed is forgotten by an error, a crash or a full store.

pub mod census;
pub mod conformance;
pub mod contract;
mod filter;
pub mod model;
mod random;
pub mod schedule;
pub mod simulated;
pub mod stored;

pub use contract::{
    AcceptError, ActResult, Acted, Admission, Content, ContentError, Draft, Lease, Queue,
    QueueError, SettleError,
};
pub use model::{
    Action, Attempt, Disposition, Filter, FollowUp, FollowUpKind, Forward, Head, HopKind, Job,
    JobId, JobSummary, LeaseReason, NewJob, NextHop, Phase, Progress, RecipientState,
    RecipientStatus, Report, Settlement, Stats, Wait,
};
