//! The dialogue table: what a client says, what it hears, and the rule that decides.
//!
//! In a script `C:` is a line from the client; neighbouring ones arrive together. `C=` is the same
//! without CR LF. `S:` is the beginning of the last line of a reply, all replies in order. `M:` is
//! the content of a message that was accepted, `-` an event, and `TLS` a handshake.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that panics fails")]

mod dialogue {
    mod harness;

    mod auth;
    mod chunking;
    mod content;
    mod extensions;
    mod session;
    mod submission;
    mod transaction;
}
