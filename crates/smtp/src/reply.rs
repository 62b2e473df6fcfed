//! Replies of a server, read from a stream of octets that nobody vouches for.

use mail_types::{EnhancedStatus, Reply, ReplyCode, Severity};
use memchr::memchr;

/// Bounds on what a server may say in one reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyLimits {
    /// Octets of a line that are looked at; the rest of the line is passed over.
    pub line_bytes_max: usize,
    /// Lines of a reply; more are an error.
    pub lines_max: usize,
    /// Octets of a reply, line ends included; more are an error.
    pub reply_bytes_max: usize,
    /// Octets of text that are kept; the rest is cut off.
    pub text_bytes_max: usize,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self {
            line_bytes_max: 2048,
            lines_max: 100,
            reply_bytes_max: 64 * 1024,
            text_bytes_max: 1024,
        }
    }
}

/// What no SMTP server says. The connection is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("not an SMTP reply: \"{0}\"")]
    Garbage(Box<str>),
    #[error("the lines of one reply have the codes {0} and {1}")]
    CodesDiffer(ReplyCode, ReplyCode),
    #[error("a reply of more than {0} lines")]
    TooManyLines(usize),
    #[error("a reply of more than {0} octets")]
    TooLong(usize),
}

/// Collects replies (RFC 5321 §4.2) from input that may be cut anywhere.
///
/// A bare LF ends a line too: several servers send it, and a reply decides nothing that a line
/// end in the wrong place could forge beyond what its sender can say anyway.
#[derive(Debug)]
pub struct ReplyParser {
    limits: ReplyLimits,
    /// The line so far, up to `line_bytes_max`.
    line: Vec<u8>,
    /// Whether the line was longer than what is kept of it.
    line_cut: bool,
    reply: Option<Reply>,
    lines: usize,
    bytes: usize,
}

impl ReplyParser {
    pub fn new(limits: ReplyLimits) -> Self {
        Self { limits, line: Vec::new(), line_cut: false, reply: None, lines: 0, bytes: 0 }
    }

    /// Reads up to the end of one reply and leaves what follows it in `input`; `None` when the
    /// reply goes on beyond `input`. After an error nothing more can be read.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ReplyError> {
        while !input.is_empty() {
            let end = memchr(b'\n', input);
            let (part, rest) = input.split_at(end.map_or(input.len(), |at| at + 1));
            *input = rest;
            self.bytes += part.len();
            if self.bytes > self.limits.reply_bytes_max {
                return Err(ReplyError::TooLong(self.limits.reply_bytes_max));
            }
            self.keep(&part[..part.len() - usize::from(end.is_some())]);
            if end.is_some()
                && let Some(reply) = self.end_line()?
            {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    /// Forgets a reply that has begun: what was sent before TLS is nobody's word.
    pub fn reset(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Sets how much of the text of the next reply is kept.
    pub fn set_text_bytes_max(&mut self, bytes: usize) {
        self.limits.text_bytes_max = bytes;
    }

    fn keep(&mut self, part: &[u8]) {
        let room = self.limits.line_bytes_max + 1 - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        self.line_cut |= part.len() > room;
    }

    fn end_line(&mut self) -> Result<Option<Reply>, ReplyError> {
        self.lines += 1;
        if self.lines > self.limits.lines_max {
            return Err(ReplyError::TooManyLines(self.limits.lines_max));
        }
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.line_cut);
        let content = if cut { &line[..] } else { line.strip_suffix(b"\r").unwrap_or(&line) };
        let content = &content[..content.len().min(self.limits.line_bytes_max)];
        let parsed = parse_line(content).ok_or_else(|| ReplyError::Garbage(excerpt(content)))?;
        self.add(&parsed)?;
        let last = parsed.last;
        self.line = line;
        self.line.clear();
        if !last {
            return Ok(None);
        }
        (self.lines, self.bytes) = (0, 0);
        Ok(self.reply.take())
    }

    fn add(&mut self, line: &Line<'_>) -> Result<(), ReplyError> {
        let (status, text) = split_status(line.code, line.text);
        let Some(reply) = &mut self.reply else {
            let mut reply = Reply { code: line.code, status, text: String::new() };
            push_sanitised(&mut reply.text, text, self.limits.text_bytes_max);
            self.reply = Some(reply);
            return Ok(());
        };
        if reply.code != line.code {
            return Err(ReplyError::CodesDiffer(reply.code, line.code));
        }
        let text = if status == reply.status { text } else { line.text };
        if reply.text.len() < self.limits.text_bytes_max {
            reply.text.push('\n');
            push_sanitised(&mut reply.text, text, self.limits.text_bytes_max);
        }
        Ok(())
    }
}

struct Line<'a> {
    code: ReplyCode,
    last: bool,
    text: &'a [u8],
}

/// `250 text`, `250-text`, `250` (RFC 5321 §4.2.1: the text may be missing).
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let (digits, rest) = line.split_first_chunk::<3>()?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    let code = ReplyCode::try_from(value).ok()?;
    match rest.split_first() {
        None => Some(Line { code, last: true, text: b"" }),
        Some((b' ', text)) => Some(Line { code, last: true, text }),
        Some((b'-', text)) => Some(Line { code, last: false, text }),
        Some(_) => None,
    }
}

/// Takes the enhanced status off the text if it has the class of the code (RFC 2034 §4).
fn split_status(code: ReplyCode, text: &[u8]) -> (Option<EnhancedStatus>, &[u8]) {
    let end = memchr(b' ', text).unwrap_or(text.len());
    let status = std::str::from_utf8(&text[..end]).ok().and_then(|s| s.parse().ok());
    let class = match code.severity() {
        Severity::Completion => 2,
        Severity::Transient => 4,
        Severity::Permanent => 5,
        Severity::Intermediate => return (None, text),
    };
    match status.filter(|status: &EnhancedStatus| status.class() == class) {
        Some(status) => (Some(status), text[end..].strip_prefix(b" ").unwrap_or(&text[end..])),
        None => (None, text),
    }
}

/// Appends `octets` as text: controls and what is not UTF-8 become `\xNN`, so that a reply is one
/// line wherever it is shown, and shows what was sent.
fn push_sanitised(text: &mut String, octets: &[u8], bytes_max: usize) {
    for chunk in octets.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut octets = [0; 4];
            let encoded = c.encode_utf8(&mut octets);
            let pushed = match c.is_control() {
                true => push_escaped(text, encoded.as_bytes(), bytes_max),
                false => push_within(text, encoded, bytes_max),
            };
            if !pushed {
                return;
            }
        }
        if !push_escaped(text, chunk.invalid(), bytes_max) {
            return;
        }
    }
}

fn push_escaped(text: &mut String, octets: &[u8], bytes_max: usize) -> bool {
    octets.iter().all(|octet| push_within(text, &format!("\\x{octet:02X}"), bytes_max))
}

fn push_within(text: &mut String, more: &str, bytes_max: usize) -> bool {
    let fits = text.len() + more.len() <= bytes_max;
    if fits {
        text.push_str(more);
    }
    fits
}

fn excerpt(line: &[u8]) -> Box<str> {
    let mut text = String::new();
    push_sanitised(&mut text, line, 80);
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(input: &[u8], cuts: &[usize]) -> (Vec<Reply>, Option<ReplyError>) {
        let mut parser = ReplyParser::new(ReplyLimits::default());
        let mut replies = Vec::new();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        ends.push(input.len());
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            let mut part = &input[start..end];
            start = end;
            while !part.is_empty() {
                match parser.read(&mut part) {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => {}
                    Err(error) => return (replies, Some(error)),
                }
            }
        }
        (replies, None)
    }

    fn one(input: &[u8]) -> Reply {
        let (replies, error) = read_all(input, &[]);
        assert_eq!((replies.len(), error), (1, None), "{}", input.escape_ascii());
        replies.into_iter().next().unwrap()
    }

    #[test]
    fn replies_as_servers_write_them() {
        for (input, code, status, text) in [
            (&b"250 2.1.5 Ok\r\n"[..], 250, Some("2.1.5"), "Ok"),
            (b"250\r\n", 250, None, ""),
            (b"250 \r\n", 250, None, ""),
            (b"250 Ok\n", 250, None, "Ok"),
            (
                b"550-5.1.1 No such user\r\n550 5.1.1 here\r\n",
                550,
                Some("5.1.1"),
                "No such user\nhere",
            ),
            (b"550-5.1.1 a\r\n550 5.7.1 b\r\n", 550, Some("5.1.1"), "a\n5.7.1 b"),
            (b"250 5.1.1 wrong class\r\n", 250, None, "5.1.1 wrong class"),
            (b"354 2.0.0 go\r\n", 354, None, "2.0.0 go"),
            (b"451 4.7.1\r\n", 451, Some("4.7.1"), ""),
            (b"250 a\0b\x1b[2J\x7f\xff\r\r\n", 250, None, "a\\x00b\\x1B[2J\\x7F\\xFF\\x0D"),
            (b"250 \xc2\x9b gr\xc3\xbc\xc3\x9fe\r\n", 250, None, "\\xC2\\x9B gr\u{fc}\u{df}e"),
        ] {
            let reply = one(input);
            let status = status.map(|s: &str| s.parse().unwrap());
            assert_eq!((reply.code.value(), reply.status, &*reply.text), (code, status, text));
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for input in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\r\n",
            b"25\r\n",
            b"25a ok\r\n",
            b"199 ok\r\n",
            b"600 ok\r\n",
            b"250x\r\n",
            b" 250 ok\r\n",
            b"250-a\r\n251 b\r\n",
            b"250-a\r\nb\r\n",
        ] {
            let (replies, error) = read_all(input, &[]);
            assert!(replies.is_empty() && error.is_some(), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn bounds() {
        let long = [b"250 ", &[b'x'; 5000][..], b"\r\n"].concat();
        assert_eq!(one(&long).text.len(), ReplyLimits::default().text_bytes_max);
        let endless = vec![b'2'; 70_000];
        assert_eq!(read_all(&endless, &[]).1, Some(ReplyError::TooLong(65_536)));
        let many = b"250-x\r\n".repeat(101);
        assert_eq!(read_all(&many, &[]).1, Some(ReplyError::TooManyLines(100)));
        let full = [b"250-x\r\n".repeat(99), b"250 x\r\n".to_vec()].concat();
        assert_eq!(one(&full).text.lines().count(), 100);
        let mut parser = ReplyParser::new(ReplyLimits::default());
        let _ = parser.read(&mut &endless[..60_000]);
        assert!(parser.line.capacity() <= 8192);
    }

    proptest! {
        #[test]
        fn any_split_reads_the_same(
            input in proptest::collection::vec(
                prop_oneof![
                    Just(b"250-".to_vec()), Just(b"250 ".to_vec()), Just(b"550 5.1.1 ".to_vec()),
                    Just(b"\r\n".to_vec()), Just(b"\r".to_vec()), Just(b"\n".to_vec()),
                    Just(vec![b'x'; 2046]), proptest::collection::vec(any::<u8>(), 0..8),
                ], 0..24).prop_map(|parts| parts.concat()),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let every = (0..input.len()).collect::<Vec<_>>();
            let whole = read_all(&input, &[]);
            prop_assert_eq!(&read_all(&input, &cuts), &whole);
            prop_assert_eq!(&read_all(&input, &every), &whole);
            for reply in whole.0 {
                prop_assert!(reply.text.len() <= 1024 + 100);
                prop_assert!(!reply.text.chars().any(|c| c.is_control() && c != '\n'));
            }
        }
    }
}
