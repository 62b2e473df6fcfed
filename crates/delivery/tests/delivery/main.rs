//! The role against scripted hosts on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails

mod content;
mod finding;
mod flow;
mod gateway;
mod hostile;
mod notifying;
mod peer;
mod recovery;
mod sources;
mod tls;
mod world;
