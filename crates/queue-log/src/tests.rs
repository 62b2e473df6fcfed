//! Tests of the queue as a whole.

mod conformance;
mod crash;
mod damage;
mod mail;
mod space;

pub(crate) use mail::NOW;
