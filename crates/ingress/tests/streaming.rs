//! What a large message costs in memory: alone in its process, so that it can be measured.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics fails")]
#![allow(dead_code, reason = "the harness is shared with `ingress.rs`")]

mod ingress {
    mod client;
    mod last_use_memory;
    mod memory_queue;
    mod server;

    mod streaming;
}
