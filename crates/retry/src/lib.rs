//! When to try again, when to say that it takes long, when to give up.
//!
//! A function of `(policy, history, now, rng)`: no clock, no queue, no SMTP. It does not know why
//! an attempt failed; the caller asks only about recipients that may still be delivered.
//!
//! Failure behaviour: none. A policy that makes no sense is refused by [`Policy::validate`], and
//! every decision moves forward: an attempt is never scheduled before the one that failed.

mod policy;
mod schedule;

pub use policy::{Policy, PolicyChange, PolicyError};
pub use schedule::{Decision, History, decide};
