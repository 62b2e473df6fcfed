//! The role over loopback: real sockets, real TLS, a queue that can be told to fail.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics fails")]

mod ingress {
    mod client;
    mod last_use_memory;
    mod memory_queue;
    mod server;

    mod accepting;
    mod dialogue;
    mod forwarding;
    mod full;
    mod gateway;
    mod limits;
    mod proxied;
    mod relaying;
    mod scram;
    mod sending;
    mod smuggling;
    mod stopping;
    mod storing;
    mod submitting;
    mod tls;
}
