//! Runs a script against a session, with a policy that every case can rely on.

use std::sync::Arc;

use mail_types::{EnhancedStatus, Reply, ReplyCode};
use smtp::server::Transport;
use smtp::{
    Answer, Event, Limits, ListenerKind, Note, Scram, ServerConfig, ServerSession, StartTls,
};

/// One row of the table.
pub(super) struct Case {
    /// Quoted in docs/rfc.md.
    pub(super) name: &'static str,
    /// `RFC 5321 §4.1.4`.
    pub(super) rule: &'static str,
    pub(super) script: &'static str,
}

pub(super) fn limits() -> Limits {
    Limits {
        command_octets_max: 512,
        auth_octets_max: 1024,
        text_line_octets_max: 100,
        message_octets_max: 1000,
        discard_octets_max: 5000,
        recipients_max: 3,
        errors_max: 5,
        commands_max: 40,
        ..Limits::default()
    }
}

pub(super) fn config(kind: ListenerKind) -> ServerConfig {
    ServerConfig {
        kind,
        hostname: "mx.example.org".to_owned(),
        starttls: StartTls::Offered,
        scram: Scram::Offered,
        limits: limits(),
    }
}

/// Runs every case on a listener of this kind.
pub(super) fn run(kind: ListenerKind, cases: &[Case]) {
    for case in cases {
        let transport = match kind {
            ListenerKind::Submissions => Transport::Tls,
            ListenerKind::Relay | ListenerKind::Submission => Transport::Clear,
        };
        Dialogue::new(config(kind), transport).run(case);
    }
}

pub(super) struct Dialogue {
    session: ServerSession,
    buffer: Vec<u8>,
    content: Vec<u8>,
    /// What the session said and did, in the notation of scripts.
    heard: Vec<String>,
}

impl Dialogue {
    pub(super) fn new(config: ServerConfig, transport: Transport) -> Self {
        let session = ServerSession::new(Arc::new(config), transport);
        Self { session, buffer: Vec::new(), content: Vec::new(), heard: Vec::new() }
    }

    pub(super) fn run(mut self, case: &Case) {
        let Case { name, rule, script } = case;
        let lines: Vec<&str> =
            script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !lines.first().is_some_and(|line| line.starts_with('C')) {
            self.drive();
        }
        let mut at = 0;
        while at < lines.len() {
            let sent = self.send_from(&lines[at..]);
            at += sent;
            if sent > 0 {
                self.drive();
                continue;
            }
            if lines[at] == "TLS" {
                assert_eq!(self.next_heard(), "TLS", "{name} ({rule}) line {at}");
                self.session.tls_started();
                self.drive();
            } else {
                let heard = self.next_heard();
                let want = unescape(lines[at]);
                let want = String::from_utf8_lossy(&want);
                let fits =
                    if want.starts_with("S:") { heard.starts_with(&*want) } else { heard == want };
                assert!(fits, "{name} ({rule}): want {:?}, heard {heard:?}", lines[at]);
            }
            at += 1;
        }
        assert!(self.heard.is_empty(), "{name} ({rule}): also heard {:?}", self.heard);
    }

    /// Takes the client's lines that begin `lines`; returns how many.
    fn send_from(&mut self, lines: &[&str]) -> usize {
        let is_client = |line: &&&str| line.starts_with("C:") || line.starts_with("C=");
        let count = lines.iter().take_while(is_client).count();
        for line in &lines[..count] {
            let text = line[2..].strip_prefix(' ').unwrap_or(&line[2..]);
            self.buffer.extend(unescape(text));
            if line.starts_with("C:") {
                self.buffer.extend(b"\r\n");
            }
        }
        count
    }

    fn next_heard(&mut self) -> String {
        if self.heard.is_empty() { "nothing".to_owned() } else { self.heard.remove(0) }
    }

    /// Lets the session read until it needs more or ends.
    pub(super) fn drive(&mut self) {
        loop {
            let (consumed, event) = self.session.next(&self.buffer);
            self.hear_replies();
            let content = match &event {
                Event::Content(range) => self.buffer[range.clone()].to_vec(),
                _ => Vec::new(),
            };
            self.buffer.drain(..consumed);
            match event {
                Event::NeedInput => return,
                Event::Close => return self.heard.push("- close".to_owned()),
                Event::StartTls => {
                    assert!(self.buffer.is_empty(), "input outlived STARTTLS");
                    return self.heard.push("TLS".to_owned());
                }
                Event::Reset => {
                    self.content.clear();
                    self.heard.push("- reset".to_owned());
                }
                Event::Noted(note) => self.heard.push(format!("- {}", note_name(note))),
                Event::Content(_) => self.content.extend(content),
                question => self.decide(question),
            }
            self.hear_replies();
        }
    }

    fn decide(&mut self, question: Event) {
        let refuse = |code, status, text: &str| Answer::Refuse(Reply::new(code, status, text));
        let no_user = EnhancedStatus::new(5, 1, 1);
        let answer = match question {
            Event::Authenticate(credentials)
                if (&*credentials.login, credentials.password()) != ("alice", "secret") =>
            {
                refuse(ReplyCode::new(535), EnhancedStatus::new(5, 7, 8), "Bad credentials")
            }
            // A mechanism of two messages and an empty one.
            Event::BeginScram(message) if message == "first" => {
                Answer::Challenge("challenge".to_owned())
            }
            Event::BeginScram(_) => panic!("it has not begun so"),
            Event::GoOnWithScram(message) => match &*message {
                "final" => Answer::Challenge("verified".to_owned()),
                "" => Answer::AcceptWith("alice".to_owned()),
                _ => refuse(ReplyCode::new(535), EnhancedStatus::new(5, 7, 8), "Bad credentials"),
            },
            Event::Mail(mail) if mail.reverse_path.to_string() == "<refused@example.com>" => {
                refuse(ReplyCode::new(550), EnhancedStatus::new(5, 7, 1), "Not you")
            }
            Event::Recipient(rcpt) => match rcpt.forward_path.to_string().as_str() {
                "<nobody@example.org>" => refuse(ReplyCode::new(550), no_user, "No such user"),
                "<later@example.org>" => {
                    refuse(ReplyCode::new(451), EnhancedStatus::new(4, 3, 0), "Later")
                }
                "<shutdown@example.org>" => {
                    refuse(ReplyCode::new(421), EnhancedStatus::new(4, 3, 2), "Going down")
                }
                _ => Answer::Accept,
            },
            Event::EndOfContent { .. } => {
                let content = String::from_utf8(std::mem::take(&mut self.content)).unwrap();
                if content.contains("full") {
                    refuse(ReplyCode::new(452), EnhancedStatus::new(4, 3, 1), "Full")
                } else {
                    self.heard.push(format!("M: {content}"));
                    Answer::AcceptWith("queued as 1".to_owned())
                }
            }
            _ => Answer::Accept,
        };
        self.session.answer(answer);
    }

    fn hear_replies(&mut self) {
        let output = std::mem::take(self.session.output());
        let output = String::from_utf8(output).unwrap();
        for line in output.split_terminator("\r\n") {
            assert!(!line.contains(['\r', '\n']) && line.len() <= 510, "{line:?}");
            if line.as_bytes()[3] == b' ' {
                self.heard.push(format!("S: {line}"));
            }
        }
    }
}

fn note_name(note: Note) -> String {
    format!("{note:?}")
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('r') => out.push(b'\r'),
                Some('n') => out.push(b'\n'),
                Some('0') => out.push(0),
                Some('x') => {
                    let digits: String = chars.by_ref().take(2).collect();
                    out.push(u8::from_str_radix(&digits, 16).unwrap());
                }
                // `\*9a` is nine times `a`; two digits.
                Some('*') => {
                    let digits: String = chars.by_ref().take(3).collect();
                    let octet = chars.next().unwrap() as u8;
                    out.extend(vec![octet; digits.parse().unwrap()]);
                }
                other => panic!("escape {other:?}"),
            },
            (c, false) => out.extend(c.to_string().bytes()),
        }
    }
    out
}
