//! The operator's door to a queue: HTTP on a Unix socket that only its owner can open, and on a
//! loopback port for those who show a token, if there is to be one.
//!
//! ```text
//! GET  /v1/jobs?phase=deferred      one JobSummary a line, as they are found
//! GET  /v1/messages/QUEUEID         [JobView]
//! POST /v1/actions {action, …}      one Acted a line, as each is done
//! GET  /v1/stats                    Stats
//! GET  /v1/top?by=nextHop|reason    Top
//! GET  /v1/passwords?login=ADDRESS  [PasswordView]
//! GET  /v1/openapi.json             what all of this looks like: docs/openapi.json
//!
//! GET  /                            on the port: a page for people, which asks the same
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
mod query;
pub mod server;
mod token;
mod top;
mod view;

pub use config::{Config, ConfigError, Port};
pub use passwords::{PasswordView, Passwords};
pub use query::{ActRequest, Query};
pub use token::TokenError;
pub use top::{By, Top, TopQuery, TopRow};
pub use view::{JobView, RecipientView};
