//! The role against scripted hosts on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails

mod hostile;
mod peer;
mod world;
