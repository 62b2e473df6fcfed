//! How long a client waits for each answer (RFC 5321 §4.5.3.2).

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// The longest wait for each kind of answer; the default is what the RFC asks for at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// RFC 5321 §4.5.3.2.1.
    pub greeting: Duration,
    /// For EHLO, STARTTLS, AUTH and RSET, of which the RFC says nothing.
    pub command: Duration,
    /// RFC 5321 §4.5.3.2.2.
    pub mail: Duration,
    /// RFC 5321 §4.5.3.2.3.
    pub rcpt: Duration,
    /// From DATA to its `354`: RFC 5321 §4.5.3.2.4.
    pub data: Duration,
    /// For each block of content that is written: RFC 5321 §4.5.3.2.5.
    pub block: Duration,
    /// From the final dot to its reply: RFC 5321 §4.5.3.2.6.
    pub final_dot: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            greeting: MINUTE * 5,
            command: MINUTE * 5,
            mail: MINUTE * 5,
            rcpt: MINUTE * 5,
            data: MINUTE * 2,
            block: MINUTE * 3,
            final_dot: MINUTE * 10,
        }
    }
}

impl Timeouts {
    /// The longest of all: a lease must last longer than this.
    pub fn longest(&self) -> Duration {
        [self.greeting, self.command, self.mail, self.rcpt, self.data, self.block, self.final_dot]
            .into_iter()
            .max()
            .unwrap_or_default()
    }
}
