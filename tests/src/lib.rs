//! What the tests of the whole need: a `postrider` process that can be killed, clients and sinks
//! that are *not* built from our own protocol code, and the ledger that proves that nothing is
//! lost.
//!
//! Everything happens on loopback, in directories of the test's own. Nothing sleeps: [`wait`] polls
//! a condition and fails with what it waited for.

pub mod admin_port;
pub mod bad_specs;
pub mod browser;
pub mod client;
pub mod collector;
pub mod contract;
pub mod crowd;
pub mod dns;
pub mod dovecot;
pub mod exchange;
pub mod exim;
pub mod exposition;
pub mod fairness;
pub mod flood;
pub mod forwarder;
pub mod fuzz;
pub mod gateway;
pub mod health;
pub mod helm;
pub mod home;
pub mod jet;
pub mod keys;
pub mod kubectl;
pub mod ledger;
pub mod load;
pub mod log_lines;
pub mod mail;
pub mod maildir;
pub mod memory;
pub mod mesh;
mod namespace;
pub mod nats;
pub mod noloss;
pub mod ports;
pub mod postfix;
pub mod powercut;
pub mod probe;
pub mod process;
pub mod quota;
pub mod scenario;
pub mod scram;
pub mod sim;
pub mod sink;
pub mod tenant;
pub mod tools;
pub mod wait;
