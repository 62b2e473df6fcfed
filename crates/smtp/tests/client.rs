//! Dialogues of the client's session with scripted servers.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails

mod client {
    mod answers;
    mod lmtp;
    mod smtp;
}
