//! A server session against any client.

use std::sync::Arc;

use mail_types::{EnhancedStatus, Reply, ReplyCode};
use smtp::server::Transport;
use smtp::{Answer, Event, Limits, ListenerKind, Scram, ServerConfig, ServerSession, StartTls};

use super::is_strict;

/// Whatever a client sends and however it is cut: replies are well-formed, content is strict, an
/// ended session stays ended, and no input makes it run for ever or keep more than a line.
///
/// The first octet chooses listener and transport, the second how input is cut, the third how
/// policy answers.
pub fn check_server_session(data: &[u8]) {
    let [choice, cut, policy, input @ ..] = data else { return };
    let kind = match choice % 3 {
        0 => ListenerKind::Relay,
        1 => ListenerKind::Submission,
        _ => ListenerKind::Submissions,
    };
    let transport = if choice & 4 == 0 { Transport::Clear } else { Transport::Tls };
    let mut client = Client::new(kind, transport, *policy);
    for piece in input.chunks(usize::from(*cut).max(1)) {
        client.send(piece);
    }
}

const LIMITS: Limits = Limits {
    command_octets_max: 512,
    auth_octets_max: 1024,
    text_line_octets_max: 256,
    message_octets_max: 4096,
    discard_octets_max: 8192,
    recipients_max: 4,
    errors_max: 8,
    commands_max: 64,
    auth_failures_max: 2,
    command_timeout: smtp::limits::COMMAND_TIMEOUT,
    content_timeout: smtp::limits::CONTENT_TIMEOUT,
};

struct Client {
    session: ServerSession,
    buffer: Vec<u8>,
    content: Vec<u8>,
    policy: u8,
    closed: bool,
}

impl Client {
    fn new(kind: ListenerKind, transport: Transport, policy: u8) -> Self {
        let config = ServerConfig {
            kind,
            hostname: "mx.example.org".to_owned(),
            starttls: StartTls::Offered,
            scram: Scram::Offered,
            limits: LIMITS,
        };
        let session = ServerSession::new(Arc::new(config), transport);
        let mut client =
            Self { session, buffer: Vec::new(), content: Vec::new(), policy, closed: false };
        client.send(b"");
        client
    }

    fn send(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        let mut steps = 0;
        while !self.step() {
            steps += 1;
            assert!(steps <= 16 * (self.buffer.len() + piece.len() + 16), "it runs for ever");
        }
        check_output(self.session.output());
        self.session.output().clear();
        if self.closed {
            self.buffer.clear();
        }
        assert!(self.buffer.len() <= 1024 + 2 + piece.len(), "more than a line is kept");
    }

    /// One event; whether the session wants more input.
    fn step(&mut self) -> bool {
        let (consumed, event) = self.session.next(&self.buffer);
        assert!(consumed <= self.buffer.len());
        assert!(!self.closed || event == Event::Close, "{event:?} after the end");
        if let Event::Content(range) = &event {
            assert!(range.end <= consumed && !range.is_empty());
            self.content.extend_from_slice(&self.buffer[range.clone()]);
            assert!(self.content.len() as u64 <= LIMITS.message_octets_max);
            assert!(is_strict(&self.content), "a bare CR or LF came through");
        }
        self.buffer.drain(..consumed);
        match event {
            Event::NeedInput => return true,
            Event::Close => {
                self.closed = true;
                return true;
            }
            Event::StartTls => {
                assert!(self.buffer.is_empty(), "input outlived STARTTLS");
                self.content.clear();
                self.session.tls_started();
            }
            Event::Reset => self.content.clear(),
            Event::Content(_) | Event::Noted(_) => {}
            Event::EndOfContent { octets, .. } => {
                assert_eq!(octets, self.content.len() as u64);
                self.content.clear();
                self.answer();
            }
            Event::BeginScram(_) | Event::GoOnWithScram(_) if self.policy & 3 == 3 => {
                self.policy = self.policy.rotate_left(1);
                self.session.answer(Answer::Challenge("r=1,s=2,i=3".to_owned()));
            }
            Event::BeginScram(_)
            | Event::GoOnWithScram(_)
            | Event::Authenticate(_)
            | Event::Mail(_)
            | Event::Recipient(_)
            | Event::BeginContent => self.answer(),
        }
        false
    }

    fn answer(&mut self) {
        self.policy = self.policy.rotate_left(1);
        let refusal = |code, class| {
            let status = EnhancedStatus::new(class, 0, 0);
            Answer::Refuse(Reply::new(code, status, "no\x1b\r\nno"))
        };
        let answer = match self.policy & 0x81 {
            0x81 => refusal(ReplyCode::new(451), 4),
            0x80 => refusal(ReplyCode::new(550), 5),
            _ => Answer::Accept,
        };
        self.session.answer(answer);
    }
}

/// RFC 5321 §4.2: three digits, a space or a hyphen, text, CR LF; RFC 2034 §4: the class of the
/// enhanced status is that of the code.
fn check_output(output: &[u8]) {
    let text = std::str::from_utf8(output).expect("replies are UTF-8");
    assert!(text.is_empty() || text.ends_with("\r\n"));
    for line in text.split_terminator("\r\n") {
        assert!(!line.contains(char::is_control), "{line:?}");
        let (code, rest) = line.split_at(3);
        assert!(code.bytes().all(|b| b.is_ascii_digit()), "{line:?}");
        assert!(rest.starts_with([' ', '-']), "{line:?}");
        let class = rest[1..].split('.').next().filter(|class| matches!(*class, "2" | "4" | "5"));
        assert!(class.is_none_or(|class| code.starts_with(class)), "{line:?}");
    }
}
