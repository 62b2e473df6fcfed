//! The operator's door to a queue: HTTP on a Unix socket that only its owner can open, and on a
//! loopback port for those who show a token, if there is to be one.
//!
//! ```text
//! GET  /v1/jobs?phase=deferred      one JobSummary a line, as they are found
//! GET  /v1/messages/QUEUEID         [JobView]
//! GET  /v1/messages/QUEUEID/content the message itself
//! GET  /v1/messages/QUEUEID/trace   Trace, also of what has left the queue
//! POST /v1/actions {action, …}      one Acted a line, as each is done
//! GET  /v1/stats                    Stats
//! GET  /v1/top?by=nextHop|reason    Top
//! GET  /v1/outcomes                 Outcomes of the last hour
//! GET  /v1/passwords?login=ADDRESS  [PasswordView]
//! GET  /v1/openapi.json             what all of this looks like: docs/openapi.json
//!
//! GET  /                            on the port: a page for people, which asks the same
//! POST /process/…                   on the socket: what the process itself does, see `process`
//! ```
//!
//! Long answers are streams of lines, so that a queue of a million is neither collected nor waited
//! for. A failure in the middle of one is a last line `{"error": …}`. It knows no backend.

mod api;
pub mod client;
mod config;
pub mod openapi;
mod page;
mod passwords;
pub mod port;
pub mod process;
mod query;
pub mod server;
pub mod socket;
mod token;
mod top;
mod trace;
mod view;

pub use api::Sources;
pub use config::{Config, ConfigError, Port};
pub use passwords::{PasswordView, Passwords};
pub use query::{ActRequest, Query};
pub use token::TokenError;
pub use top::{By, Top, TopQuery, TopRow};
pub use trace::{Cause, Ending, Trace, TracedJob, TracedMessage};
pub use view::{JobView, RecipientView};
