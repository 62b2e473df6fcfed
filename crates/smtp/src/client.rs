//! The client's side of SMTP and LMTP, without I/O: a driver carries octets, this decides.
//!
//! The driver writes [`ClientSession::output`], hands what it reads to [`ClientSession::receive`],
//! and does what [`ClientSession::poll`] says. Time is the driver's too: it ends a session
//! whose next reply takes longer than [`ClientSession::timeout`].

mod auth;
mod capabilities;
mod command;
mod content;
mod protocol;
mod session;
mod timeouts;
mod transaction;

pub use auth::{Credentials, Password};
pub use capabilities::{Capabilities, SizeLimit};
pub use command::Mail;
pub use content::ContentEncoder;
pub use protocol::Protocol;
pub use session::{ClientConfig, ClientSession, Event, SessionError, Violation};
pub use timeouts::Timeouts;
pub use transaction::{RecipientResult, Step};
