//! What must hold for any octets whatever. `fuzz/` searches for octets for which it does not;
//! `tests/fuzz.rs` replays those that were found, and some that are good beginnings.
//!
//! Each function takes what the fuzzer gives and panics when a promise is broken.

mod session;

use mail_types::{Domain, ForwardPath, Mailbox, ReversePath};
use smtp::Command;
use smtp::framing::{
    ChunkChecker, ContentFault, DataDecoder, DataStep, Line, LineError, LineReader,
};
use smtp::reply::{ReplyError, ReplyLimits, ReplyParser};

pub use self::session::check_server_session;

/// A target of `fuzz/`: its name there and in `fuzz/corpus`, and its check.
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "framing", check: check_framing },
    Target { name: "commands", check: check_commands },
    Target { name: "server_session", check: check_server_session },
    Target { name: "addresses", check: check_addresses },
    Target { name: "replies", check: check_replies },
    Target { name: "dsn", check: check_dsn },
    Target { name: "log_records", check: check_log_records },
];

/// Any split of the input gives the same lines, the same content and the same end.
pub fn check_framing(data: &[u8]) {
    let Some((&step, input)) = data.split_first() else { return };
    let whole = [input];
    let pieces: Vec<&[u8]> = input.chunks(usize::from(step).max(1)).collect();
    assert_eq!(lines(&pieces), lines(&whole), "lines");
    let split = content(&pieces);
    assert_eq!(split, content(&whole), "content of DATA");
    if let Ok((content, _)) = split {
        assert!(is_strict(&content), "content of DATA has a bare CR or LF");
    }
    assert_eq!(chunks(&pieces), chunks(&whole), "content of BDAT");
}

fn lines(pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, LineError>> {
    let (mut reader, mut buffer, mut found) = (LineReader::default(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let (consumed, line) = reader.read(&buffer, 64);
            let line = match line {
                Line::Incomplete => None,
                Line::Complete(line) => Some(Ok(line.to_vec())),
                Line::Refused(error) => Some(Err(error)),
            };
            buffer.drain(..consumed);
            match line {
                Some(line) => found.push(line),
                None => break,
            }
        }
    }
    found
}

/// The content and what follows its end, or why it is refused.
type Content = Result<(Vec<u8>, Option<Vec<u8>>), ContentFault>;

fn content(pieces: &[&[u8]]) -> Content {
    let mut decoder = DataDecoder::new(64);
    let (mut buffer, mut content, mut ended) = (Vec::new(), Vec::new(), false);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while !ended {
            let (consumed, step) = decoder.decode(&buffer);
            let more = step == DataStep::More;
            match step {
                DataStep::Content(range) => content.extend_from_slice(&buffer[range]),
                DataStep::End => ended = true,
                DataStep::More | DataStep::Fault(_) => {}
            }
            buffer.drain(..consumed);
            if more {
                break;
            }
        }
    }
    match decoder.fault() {
        Some(fault) => Err(fault),
        None => Ok((content, ended.then_some(buffer))),
    }
}

fn chunks(pieces: &[&[u8]]) -> Result<smtp::framing::LastLine, ContentFault> {
    let mut checker = ChunkChecker::new(64);
    for piece in pieces {
        checker.check(piece)?;
    }
    checker.finish()
}

/// Whether CR and LF stand only as pairs; a CR may end it.
fn is_strict(content: &[u8]) -> bool {
    content.iter().enumerate().all(|(at, octet)| match octet {
        b'\n' => at > 0 && content[at - 1] == b'\r',
        b'\r' => content.get(at + 1).is_none_or(|next| *next == b'\n'),
        _ => true,
    })
}

/// A command is understood or has a reply; a path that is understood prints as itself.
pub fn check_commands(data: &[u8]) {
    for line in data.split(|octet| *octet == b'\n') {
        match Command::parse(line) {
            Ok(Command::Mail(mail)) => {
                let path = mail.reverse_path.to_string();
                let again = format!("MAIL FROM:{path} SMTPUTF8");
                let Ok(Command::Mail(again)) = Command::parse(again.as_bytes()) else {
                    panic!("{path} is not understood");
                };
                assert_eq!(again.reverse_path, mail.reverse_path);
            }
            Ok(Command::Rcpt(rcpt)) => {
                let path = rcpt.forward_path.to_string();
                let again = Command::parse(format!("RCPT TO:{path}").as_bytes());
                let Ok(Command::Rcpt(again)) = again else { panic!("{path} is not understood") };
                assert_eq!(again.forward_path, rcpt.forward_path);
                let clean = |text: &str| !text.chars().any(char::is_control);
                assert!(rcpt.orcpt.is_none_or(|orcpt| clean(orcpt.address())));
            }
            Ok(Command::Helo(name) | Command::Ehlo(name)) => {
                assert!(!name.contains(|c: char| c.is_control() || " ()<>\\\"".contains(c)));
            }
            Ok(_) => {}
            Err(error) => {
                let code = error.reply().get(..4).expect("a reply has a code");
                assert!(code.starts_with(['4', '5']) && code.ends_with(' '));
            }
        }
    }
}

/// What is an address prints as itself and holds no control.
pub fn check_addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(domain) = Domain::parse(text) {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain));
        assert!(domain.as_str().is_ascii());
    }
    if let Ok(mailbox) = Mailbox::parse(text) {
        let printed = mailbox.to_string();
        assert!(!printed.chars().any(char::is_control), "{printed:?}");
        // Quoting may have made it longer than an address may be.
        if let Ok(again) = Mailbox::parse(&printed) {
            assert_eq!(again, mailbox);
        }
    }
    let _ = (ReversePath::parse(text), ForwardPath::parse(text));
    let from = format!("From: {text}\r\n\r\n");
    let _ = message::from::mailboxes(from.as_bytes());
}

/// Any split of the input gives the same replies, each bounded and free of controls.
pub fn check_replies(data: &[u8]) {
    let Some((&step, input)) = data.split_first() else { return };
    let pieces: Vec<&[u8]> = input.chunks(usize::from(step).max(1)).collect();
    let (split, whole) = (replies(&pieces), replies(&[input]));
    assert_eq!(split, whole);
    for reply in split.0 {
        assert!(reply.text.len() <= ReplyLimits::default().text_bytes_max);
        assert!(!reply.text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", reply.text);
    }
}

fn replies(pieces: &[&[u8]]) -> (Vec<mail_types::Reply>, Option<ReplyError>) {
    let (mut parser, mut found) = (ReplyParser::new(ReplyLimits::default()), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        loop {
            match parser.read(&mut input) {
                Ok(Some(reply)) => found.push(reply),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// A report of anybody is read or not a report.
pub fn check_dsn(data: &[u8]) {
    let _ = message::dsn::parse(data);
    let fields = message::header::fields(data).count();
    assert!(fields <= data.len());
}

/// A stored record is understood or an error, and what is understood is written as it was; a log
/// that a crash left is read to its end.
pub fn check_log_records(data: &[u8]) {
    if let Ok(message) = queue::stored::StoredMessage::decode(data) {
        let again = queue::stored::StoredMessage::decode(&message.encode());
        assert!(again.is_ok_and(|again| again.encode() == message.encode()));
    }
    if let Ok(state) = queue::stored::StoredState::decode(data) {
        let again = queue::stored::StoredState::decode(&state.encode());
        assert!(again.is_ok_and(|again| again.encode() == state.encode()));
    }
    queue_log::check_segment(data);
}
