//! Replies on the wire (RFC 5321 §4.2.1).

use mail_types::Reply;

use super::{ListenerKind, Scram, ServerSession, StartTls, Transport};

/// Appends a reply with its line ends. Controls in its text become `?`.
pub fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    let mut lines = reply.text.split('\n').peekable();
    while let Some(line) = lines.next() {
        let separator = if lines.peek().is_some() { '-' } else { ' ' };
        let status = reply.status.map(|status| format!("{status} ")).unwrap_or_default();
        let line = line.replace(char::is_control, "?");
        out.extend_from_slice(format!("{}{separator}{status}{line}\r\n", reply.code).as_bytes());
    }
}

impl ServerSession {
    /// Appends a line; `line` holds no control character.
    pub(super) fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    pub(super) fn say_accepted(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.say(&format!("250 2.0.0 Ok: {text}")),
            None => self.say("250 2.0.0 Ok"),
        }
    }

    /// The reply to EHLO (RFC 5321 §4.1.1.1).
    pub(super) fn say_extensions(&mut self) {
        let size = self.config.limits.message_octets_max;
        let mut text = format!(
            "250-{}\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-HELP\r\n",
            self.config.hostname
        );
        if self.transport == Transport::Clear && self.config.starttls == StartTls::Offered {
            text.push_str("250-STARTTLS\r\n");
        }
        if self.transport == Transport::Tls && self.config.kind != ListenerKind::Relay {
            text.push_str(match self.config.scram {
                Scram::Offered => "250-AUTH PLAIN LOGIN SCRAM-SHA-256\r\n",
                Scram::Unavailable => "250-AUTH PLAIN LOGIN\r\n",
            });
        }
        text.push_str("250 CHUNKING");
        self.say(&text);
    }
}

#[cfg(test)]
mod tests {
    use mail_types::{EnhancedStatus, ReplyCode};

    use super::*;

    #[test]
    fn several_lines_and_no_controls() {
        let mut out = Vec::new();
        let status = EnhancedStatus::new(5, 7, 1);
        write_reply(&Reply::new(ReplyCode::new(550), status, "a\r\nb\x1b[2Jc\0"), &mut out);
        assert_eq!(out, b"550-5.7.1 a?\r\n550 5.7.1 b?[2Jc?\r\n");
    }
}
