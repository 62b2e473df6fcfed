//! SMTP as values: framing, grammar, the server's and the client's side of a session.
//!
//! Nothing here reads a socket or a clock, and nothing waits. Bytes come in as arguments; replies,
//! content and questions of policy come out as values; the driver owns time and I/O.
//!
//! Framing precedes grammar: what a line or a message is gets decided before anybody looks into
//! it, so bytes of something malformed are never read as the next command (`framing`). Only CR LF
//! ends a line and only CR LF `.` CR LF ends DATA; a bare CR or LF is refused, never mended.
//!
//! ```text
//! bytes ─▶ framing ─▶ command ─▶ ServerSession ─▶ Event ─▶ driver (policy, queue)
//!                                   ▲   │                     │
//!                                   │   └─ output (replies) ◀─┤
//!                                   └───────── Answer ────────┘
//! ```
//!
//! It deliberately does not know who may send what to whom, what a queue is, or how TLS works.

pub mod client;
pub mod command;
pub mod framing;
pub mod limits;
pub mod reply;
pub mod server;
pub mod xtext;

pub use command::{Command, CommandError, MailCommand, RcptCommand};
pub use limits::Limits;
pub use server::{
    Answer, Awaiting, Credentials, Event, ListenerKind, Note, Protocol, Scram, ServerConfig,
    ServerSession, StartTls, Transport,
};
