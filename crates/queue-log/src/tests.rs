//! Tests of the queue as a whole.

mod conformance;
mod crash;
mod damage;
mod format;
pub(crate) mod mail;
mod opening;
mod rot;
mod snapshot;
mod space;

pub(crate) use mail::NOW;
