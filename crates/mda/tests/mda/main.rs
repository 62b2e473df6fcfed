//! The role on a simulated queue, with a real directory or a scripted LMTP server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod delivering;
mod full;
mod lmtp;
mod server;
mod world;
