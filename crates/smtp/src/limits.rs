//! A limit on everything a client may do, each with its unit.

use std::time::Duration;

/// RFC 5321 §4.5.3.2.7: a server waits at least five minutes for the next command.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
/// RFC 5321 §4.5.3.2.5: three minutes for each block of data.
pub const CONTENT_TIMEOUT: Duration = Duration::from_secs(180);

/// What one session may cost us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Of a command line without CR LF. RFC 5321 §4.5.3.1.4 asks for 512, extensions for more.
    pub command_octets_max: usize,
    /// Of a line of AUTH without CR LF (RFC 4954 §4).
    pub auth_octets_max: usize,
    /// Of a line of content without CR LF. RFC 5321 §4.5.3.1.6 asks for 998; longer ones exist and
    /// pass unchanged.
    pub text_line_octets_max: usize,
    /// Of the content of a message (RFC 1870).
    pub message_octets_max: u64,
    /// How much of a refused message is read for its end before the session is closed.
    pub discard_octets_max: u64,
    /// In a transaction. RFC 5321 §4.5.3.1.8 asks for 100 at least.
    pub recipients_max: u32,
    /// Permanent refusals since the last accepted message.
    pub errors_max: u32,
    /// Commands since the last accepted message, accepted RCPT not counted.
    pub commands_max: u32,
    /// Failed AUTH in a session.
    pub auth_failures_max: u32,
    /// From the end of a reply to the end of the next command line.
    pub command_timeout: Duration,
    /// Without one octet of content.
    pub content_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_octets_max: 2 * 1024,
            auth_octets_max: 4 * 1024,
            text_line_octets_max: 1024 * 1024,
            message_octets_max: 50 * 1024 * 1024,
            discard_octets_max: 200 * 1024 * 1024,
            recipients_max: 1000,
            errors_max: 20,
            commands_max: 500,
            auth_failures_max: 3,
            command_timeout: COMMAND_TIMEOUT,
            content_timeout: CONTENT_TIMEOUT,
        }
    }
}
