//! The vocabulary of the field: addresses, paths, the envelope, replies, ids.
//!
//! Values here cannot be built from input that the grammar of RFC 5321 §4.1.2 refuses, so that code
//! that holds one need not check again. The crate knows no protocol state, no clock and no I/O.

pub mod domain;
pub mod envelope;
pub mod id;
pub mod mailbox;
pub mod path;
pub mod reply;
pub mod status;
pub mod time;

pub use domain::{Domain, DomainError};
pub use envelope::{
    BodyType, EnvId, Envelope, Notify, Origin, OriginalRecipient, Recipient, Ret, SmtpOrigin,
    trace_id,
};
pub use id::{QueueId, TenantId};
pub use mailbox::{AddressLiteral, Host, LocalPart, Mailbox, MailboxError};
pub use path::{ForwardPath, ReversePath};
pub use reply::{Reply, ReplyCode, Severity};
pub use status::EnhancedStatus;
pub use time::Timestamp;
