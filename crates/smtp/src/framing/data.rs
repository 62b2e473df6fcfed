//! Mail data between 354 and the line that is only a full stop.

use std::ops::Range;

use memchr::memchr2;

use super::ContentFault;

/// Finds the end of DATA and removes the stuffed dots (RFC 5321 §4.1.1.4, §4.5.2).
///
/// Content is pointed at where it lies, never copied. After a fault the rest is read to its end all
/// the same, so that it is not taken for commands.
#[derive(Debug)]
pub struct DataDecoder {
    /// The next octet is the first of a line.
    line_start: bool,
    /// Octets of the current line that earlier calls consumed.
    line_octets: usize,
    line_octets_max: usize,
    fault: Option<ContentFault>,
}

/// What the input begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum DataStep {
    /// Call again with what was not consumed and more.
    More,
    /// This range of the input is content.
    Content(Range<usize>),
    /// The content is to be refused; what was given of it is void. Said once.
    Fault(ContentFault),
    /// `CR LF . CR LF` was consumed; what follows is commands.
    End,
}

impl DataDecoder {
    /// `line_octets_max` bounds a text line, not counting CR LF.
    pub fn new(line_octets_max: usize) -> Self {
        Self { line_start: true, line_octets: 0, line_octets_max, fault: None }
    }

    /// Why the content is refused, if it is.
    pub fn fault(&self) -> Option<ContentFault> {
        self.fault
    }

    /// Reads on. Returns how many octets of `input` are done with, and what they were.
    pub fn decode(&mut self, input: &[u8]) -> (usize, DataStep) {
        let mut consumed = 0;
        loop {
            let (octets, step) = self.run(&input[consumed..]);
            consumed += octets;
            // With no fault the first run returns, so its range needs no offset.
            if self.fault.is_none() || !matches!(step, DataStep::Content(_)) {
                return (consumed, step);
            }
        }
    }

    /// Reads one run of content that lies in one piece.
    fn run(&mut self, input: &[u8]) -> (usize, DataStep) {
        let start = match input {
            [b'.', b'\r', b'\n', ..] if self.line_start => return (3, DataStep::End),
            [b'.'] | [b'.', b'\r'] if self.line_start => return (0, DataStep::More),
            [b'.', ..] if self.line_start => 1,
            _ => 0,
        };
        match self.scan(input, start) {
            Ok(0) => (0, DataStep::More),
            Ok(end) => (end, DataStep::Content(start..end)),
            Err((end, fault)) => {
                self.fault = Some(fault);
                self.line_start = false;
                (end, DataStep::Fault(fault))
            }
        }
    }

    /// The end of the run that begins at `start`: at a dot that begins a line, before a CR that
    /// ends the input, or at the end of the input.
    fn scan(&mut self, input: &[u8], start: usize) -> Result<usize, (usize, ContentFault)> {
        let mut line = start;
        let mut at = start;
        while let Some(found) = memchr2(b'\r', b'\n', &input[at..]) {
            let break_at = at + found;
            self.check_line(break_at - line, break_at)?;
            match &input[break_at..] {
                [b'\r', b'\n', ..] => {
                    self.line_octets = 0;
                    line = break_at + 2;
                    at = line;
                    if input.get(at).is_none_or(|&next| next == b'.') {
                        self.line_start = true;
                        return Ok(at);
                    }
                }
                [b'\r'] => return self.stop(break_at, line),
                [b'\r', ..] => self.tolerate(break_at + 1, ContentFault::BareCr)?,
                _ => self.tolerate(break_at + 1, ContentFault::BareLf)?,
            }
            at = at.max(break_at + 1);
        }
        self.stop(input.len(), line)
    }

    /// Ends the run inside a line.
    fn stop(&mut self, at: usize, line: usize) -> Result<usize, (usize, ContentFault)> {
        self.check_line(at - line, at)?;
        self.line_octets += at - line;
        self.line_start &= at == 0;
        Ok(at)
    }

    fn check_line(&mut self, octets: usize, at: usize) -> Result<(), (usize, ContentFault)> {
        if self.line_octets + octets > self.line_octets_max {
            self.line_octets = 0;
            return self.tolerate(at, ContentFault::LineTooLong);
        }
        Ok(())
    }

    /// A second fault changes nothing: only the first is told.
    fn tolerate(&self, at: usize, fault: ContentFault) -> Result<(), (usize, ContentFault)> {
        if self.fault.is_some() { Ok(()) } else { Err((at, fault)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        content: Vec<u8>,
        fault: Option<ContentFault>,
        /// What follows the end, if there was one.
        rest: Option<Vec<u8>>,
    }

    fn decode_all(pieces: &[&[u8]], line_octets_max: usize) -> Outcome {
        let mut decoder = DataDecoder::new(line_octets_max);
        let (mut buffer, mut content, mut rest) = (Vec::new(), Vec::new(), None);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while rest.is_none() {
                let (consumed, step) = decoder.decode(&buffer);
                let done = step == DataStep::More;
                match step {
                    DataStep::Content(range) => content.extend_from_slice(&buffer[range]),
                    DataStep::End => rest = Some(Vec::new()),
                    DataStep::More | DataStep::Fault(_) => {}
                }
                buffer.drain(..consumed);
                if done {
                    break;
                }
            }
        }
        if let Some(rest) = &mut rest {
            *rest = buffer;
        }
        let fault = decoder.fault();
        Outcome { content: if fault.is_some() { vec![] } else { content }, fault, rest }
    }

    #[test]
    fn only_crlf_dot_crlf_ends() {
        use ContentFault::{BareCr, BareLf, LineTooLong};
        type Case = (&'static [u8], &'static [u8], Option<ContentFault>, Option<&'static [u8]>);
        let cases: &[Case] = &[
            (b".\r\n", b"", None, Some(b"")),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", None, Some(b"QUIT\r\n")),
            (b"..\r\n.\r\n", b".\r\n", None, Some(b"")),
            (b".a\r\n.\r\n", b"a\r\n", None, Some(b"")),
            (b"...\r\n\r\n.\r\n", b"..\r\n\r\n", None, Some(b"")),
            (b"a.\r\n.\r\n", b"a.\r\n", None, Some(b"")),
            (b"a\0b\r\n.\r\n", b"a\0b\r\n", None, Some(b"")),
            (b"a\r\n.", b"a\r\n", None, None),
            (b"a\n.\nMAIL\r\n.\r\n", b"", Some(BareLf), Some(b"")),
            (b"a\n.\r\nMAIL\r\n.\r\n", b"", Some(BareLf), Some(b"")),
            (b"a\r\n.\nMAIL\r\n.\r\n", b"", Some(BareLf), Some(b"")),
            (b"a\r.\r\nMAIL\r\n.\r\n", b"", Some(BareCr), Some(b"")),
            (b"a\r\n.\rMAIL\r\n.\r\n", b"", Some(BareCr), Some(b"")),
            (b"a\r\n.\r\r\nMAIL\r\n.\r\n", b"", Some(BareCr), Some(b"")),
            (b"a\r\r\n.\r\n", b"", Some(BareCr), Some(b"")),
            (b"\n.\r\n", b"", Some(BareLf), None),
            (b"1234567890123456\r\n.\r\n", b"1234567890123456\r\n", None, Some(b"")),
            (b"12345678901234567\r\n.\r\nX", b"", Some(LineTooLong), Some(b"X")),
        ];
        for (input, content, fault, rest) in cases {
            let want = Outcome {
                content: content.to_vec(),
                fault: *fault,
                rest: rest.map(<[u8]>::to_vec),
            };
            assert_eq!(decode_all(&[input], 16), want, "{}", input.escape_ascii());
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(decode_all(&bytes, 16), want, "bytewise {}", input.escape_ascii());
        }
    }

    fn stuffed(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in content.split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b".") {
                out.push(b'.');
            }
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b".\r\n");
        out
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_content(
            input in proptest::collection::vec(
                proptest::sample::select(vec!["\r\n", "\r", "\n", ".", "ab", "\r\n.\r\n"]), 0..30),
            cuts in proptest::collection::vec(0usize..80, 0..10),
        ) {
            let input = input.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= input.len()).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &input[w[0]..w[1]]).collect();
            prop_assert_eq!(decode_all(&pieces, 6), decode_all(&[&input], 6));
        }

        #[test]
        fn what_was_stuffed_comes_out(lines in proptest::collection::vec("[.ab]{0,5}", 0..12)) {
            let content: String = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect();
            let outcome = decode_all(&[&stuffed(content.as_bytes())], 100);
            prop_assert_eq!(outcome.content, content.as_bytes());
            prop_assert_eq!(outcome.rest, Some(vec![]));
        }
    }
}
