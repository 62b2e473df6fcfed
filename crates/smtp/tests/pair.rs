//! Our client against our server, with the octets between them cut anywhere.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that panics fails")]

use std::sync::Arc;

use mail_types::{
    BodyType, EnhancedStatus, Host, Mailbox, Recipient, Reply, ReplyCode, ReversePath,
};
use proptest::prelude::*;
use smtp::client::{
    ClientConfig, ClientSession, Credentials, Event as Heard, Mail, Password, RecipientResult,
};
use smtp::server::Transport;
use smtp::{Answer, Event, Limits, ListenerKind, Scram, ServerConfig, ServerSession, StartTls};

/// A message as the server took it.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    recipients: Vec<String>,
    content: Vec<u8>,
}

struct Pair {
    client: ClientSession,
    server: ServerSession,
    /// How many octets travel at a time, each way in turn.
    cuts: Vec<usize>,
    turn: usize,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// What reached the server and is not consumed.
    arrived: Vec<u8>,
    recipients: Vec<String>,
    content: Vec<u8>,
    taken: Vec<Taken>,
}

impl Pair {
    fn new(kind: ListenerKind, cuts: Vec<usize>) -> Self {
        let config = ServerConfig {
            kind,
            hostname: "mx.example.org".to_owned(),
            starttls: StartTls::Offered,
            scram: Scram::Offered,
            limits: Limits::default(),
        };
        let mut pair = Self {
            client: ClientSession::new(ClientConfig::new(Host::parse("us.example").unwrap())),
            server: ServerSession::new(Arc::new(config), Transport::Clear),
            cuts,
            turn: 0,
            to_server: Vec::new(),
            to_client: Vec::new(),
            arrived: Vec::new(),
            recipients: Vec::new(),
            content: Vec::new(),
            taken: Vec::new(),
        };
        pair.serve();
        pair
    }

    fn cut(&mut self, available: usize) -> usize {
        self.turn += 1;
        self.cuts[self.turn % self.cuts.len()].clamp(1, available.max(1)).min(available)
    }

    /// Carries octets until the client has something to say about them.
    fn until_event(&mut self) -> Heard {
        for _ in 0..1_000_000 {
            if let Some(heard) = self.client.poll() {
                return heard.unwrap();
            }
            let octets = self.cut(self.to_client.len());
            let part: Vec<u8> = self.to_client.drain(..octets).collect();
            self.client.receive(&part);
            self.carry();
        }
        panic!("nothing happens at {:?}", self.client.step());
    }

    /// Lets some of what the client wrote reach the server.
    fn carry(&mut self) {
        self.to_server.extend_from_slice(self.client.output());
        self.client.output_written();
        self.serve();
    }

    fn serve(&mut self) {
        let octets = self.cut(self.to_server.len());
        self.arrived.extend(self.to_server.drain(..octets));
        loop {
            let (consumed, event) = self.server.next(&self.arrived);
            let content = match &event {
                Event::Content(range) => self.arrived[range.clone()].to_vec(),
                _ => Vec::new(),
            };
            self.arrived.drain(..consumed);
            let answer = match event {
                Event::NeedInput | Event::Close | Event::StartTls => break,
                Event::Noted(note) => panic!("our client broke a rule: {note:?}"),
                Event::Reset => None,
                Event::Content(_) => {
                    self.content.extend(content);
                    None
                }
                Event::BeginScram(_) | Event::GoOnWithScram(_) => panic!("we do not speak SCRAM"),
                Event::Authenticate(_) | Event::BeginContent => Some(Answer::Accept),
                Event::Mail(_) => {
                    self.recipients.clear();
                    self.content.clear();
                    Some(Answer::Accept)
                }
                Event::Recipient(rcpt) => {
                    let path = rcpt.forward_path.to_string();
                    let refused = path.starts_with("<no");
                    if !refused {
                        self.recipients.push(path);
                    }
                    Some(if refused { refusal() } else { Answer::Accept })
                }
                Event::EndOfContent { .. } => {
                    let recipients = std::mem::take(&mut self.recipients);
                    let content = std::mem::take(&mut self.content);
                    self.taken.push(Taken { recipients, content });
                    Some(Answer::Accept)
                }
            };
            if let Some(answer) = answer {
                self.server.answer(answer);
            }
        }
        self.to_client.append(self.server.output());
    }

    fn start_tls(&mut self) {
        self.client.start_tls();
        self.carry();
        assert_eq!(self.until_event(), Heard::StartTls);
        assert!(self.to_client.is_empty() && self.to_server.is_empty() && self.arrived.is_empty());
        self.server.tls_started();
        self.client.tls_started();
        self.carry();
        assert_eq!(self.until_event(), Heard::Ready);
    }

    /// With its content when `whole`, else once it is asked for.
    fn send(
        &mut self,
        recipients: &[Recipient],
        content: &[u8],
        whole: bool,
    ) -> Vec<RecipientResult> {
        let reverse_path = ReversePath::parse("s@here.example").unwrap();
        let mail = Mail {
            reverse_path: &reverse_path,
            size: content.len() as u64,
            body: BodyType::EightBitMime,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        match whole {
            true => assert_eq!(self.client.begin_whole(&mail, recipients, content), 0),
            false => self.client.begin(&mail, recipients),
        }
        loop {
            self.carry();
            match self.until_event() {
                Heard::SendContent => {
                    for part in content.chunks(7) {
                        self.client.content(part);
                    }
                    assert_eq!(self.client.finish_content(), 0);
                }
                Heard::ContentSent => assert!(whole),
                Heard::Finished(results) => return results,
                other => panic!("{other:?} in a transaction"),
            }
        }
    }
}

fn refusal() -> Answer {
    let status = EnhancedStatus::new(5, 1, 1);
    Answer::Refuse(Reply::new(ReplyCode::new(550), status, "No such user"))
}

fn recipient(name: &str) -> Recipient {
    Recipient::new(Mailbox::parse(&format!("{name}@there.example")).unwrap())
}

proptest! {
    #[test]
    fn what_is_sent_is_taken_at_any_cut(
        cuts in proptest::collection::vec(1usize..40, 1..8),
        messages in proptest::collection::vec(
            (proptest::collection::vec("(yes|no)[a-c]", 1..4),
             proptest::collection::vec("[.a\u{fc}]{0,6}", 0..6),
             any::<bool>()),
            1..4),
    ) {
        let mut pair = Pair::new(ListenerKind::Relay, cuts);
        prop_assert_eq!(pair.until_event(), Heard::Ready);
        let mut want = Vec::new();
        for (names, lines, whole) in messages {
            let content: String = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect();
            let recipients: Vec<Recipient> = names.iter().map(|name| recipient(name)).collect();
            let results = pair.send(&recipients, content.as_bytes(), whole);
            let accepted = |result: &RecipientResult| {
                matches!(result, RecipientResult::Accepted(_))
            };
            let taken: Vec<bool> = results.iter().map(accepted).collect();
            let expected: Vec<bool> = names.iter().map(|name| name.starts_with("yes")).collect();
            prop_assert_eq!(&taken, &expected);
            let paths = names.iter().filter(|name| name.starts_with("yes"));
            let recipients: Vec<String> =
                paths.map(|name| format!("<{name}@there.example>")).collect();
            if !recipients.is_empty() {
                want.push(Taken { recipients, content: content.into_bytes() });
            }
        }
        prop_assert_eq!(pair.taken, want);
    }

    #[test]
    fn tls_then_auth_then_mail_at_any_cut(
        cuts in proptest::collection::vec(1usize..40, 1..8),
    ) {
        let mut pair = Pair::new(ListenerKind::Submission, cuts);
        prop_assert_eq!(pair.until_event(), Heard::Ready);
        pair.start_tls();
        let credentials =
            Credentials { login: "alice".to_owned(), password: Password::new("secret") };
        prop_assert!(pair.client.authenticate(&credentials));
        pair.carry();
        prop_assert_eq!(pair.until_event(), Heard::Authenticated);
        prop_assert_eq!(pair.server.identity(), Some("alice"));
        pair.send(&[recipient("yes")], b"Subject: x\r\n\r\n.\r\n", false);
        prop_assert_eq!(&pair.taken[0].content, b"Subject: x\r\n\r\n.\r\n");
    }
}
