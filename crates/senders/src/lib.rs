//! Those who log in: how many recipients they may send to, and when their passwords were used.
//!
//! ```text
//! Tally (a transaction) ──take──▶ Meter (a process) ──lease──▶ Pool: all processes together
//!        └── dropped without keep: given back ──▶     ◀─ a share of recipients, counted already
//! ```
//!
//! **Decides.** A recipient counts when it is accepted, and no longer when its message is not. In
//! no hour, and in no day, are more counted than the limit: counts are kept in steps of five
//! minutes and of an hour, and a step leaves as a whole when the last of it is an hour or a day
//! old. (A bucket that refills would let through twice the limit in its first hour.) Processes that
//! share counts lease them in shares, counted before they are used: what a process loses when it
//! dies stays counted, so a limit may be reached early and is never exceeded.
//!
//! **Does not know** a clock, SMTP, nor where counts and last uses are kept: see [`Pool`] and
//! [`LastUseStore`].
//!
//! **Failure behaviour.** While a pool does not answer, the share that a process has is what may be
//! sent; then nothing, and never without a limit.

mod in_memory;
mod last_use;
mod limits;
mod meter;
mod pool;
mod usage;
mod window;

pub use in_memory::InMemory;
pub use last_use::{LastUse, LastUseStore, LastUses, Unstored};
pub use limits::{Account, Limits, Period, Scope};
pub use meter::{Meter, Refusal, Tally};
pub use pool::{Ask, LeaseError, Pool, Share};
pub use usage::{Exceeded, Usage};
