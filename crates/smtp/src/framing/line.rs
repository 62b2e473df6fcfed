//! Command lines, complete and clean or not at all.

use memchr::{memchr, memchr2};

/// Cuts command lines from the input (RFC 5321 §2.3.8).
#[derive(Debug, Default)]
pub struct LineReader {
    overlong: Option<Overlong>,
}

/// A line that is being skipped since it grew over its limit.
#[derive(Debug, Clone, Copy)]
struct Overlong {
    /// The last skipped octet was a CR.
    cr: bool,
}

/// What the input begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'i> {
    /// The line is not complete: call again with these octets and more.
    Incomplete,
    /// A line without its CR LF.
    Complete(&'i [u8]),
    /// A whole line was skipped.
    Refused(LineError),
}

/// Why a line is refused whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LineError {
    #[error("line is too long")]
    TooLong,
    #[error("line has a CR that no LF follows")]
    BareCr,
    /// What follows it cannot be trusted to be a command: the session ends.
    #[error("line has an LF that no CR precedes")]
    BareLf,
    #[error("line has a NUL")]
    Nul,
}

impl LineReader {
    /// Reads one line of at most `octets_max` octets, not counting CR LF.
    ///
    /// Returns how many octets of `input` are done with, and what they were.
    pub fn read<'i>(&mut self, input: &'i [u8], octets_max: usize) -> (usize, Line<'i>) {
        let Some(lf) = memchr(b'\n', input) else {
            return self.incomplete(input, octets_max);
        };
        let cr = match lf.checked_sub(1) {
            Some(before) => input[before] == b'\r',
            None => self.overlong.is_some_and(|skipped| skipped.cr),
        };
        let overlong = self.overlong.take().is_some();
        let line = match lf.checked_sub(1) {
            _ if !cr => Line::Refused(LineError::BareLf),
            Some(end) if !overlong && end <= octets_max => check(&input[..end]),
            _ => Line::Refused(LineError::TooLong),
        };
        (lf + 1, line)
    }

    fn incomplete<'i>(&mut self, input: &'i [u8], octets_max: usize) -> (usize, Line<'i>) {
        let Some(&last) = input.last() else {
            return (0, Line::Incomplete);
        };
        // One more than the limit may be the CR of a line that just fits.
        if self.overlong.is_none() && input.len() <= octets_max + 1 {
            return (0, Line::Incomplete);
        }
        self.overlong = Some(Overlong { cr: last == b'\r' });
        (input.len(), Line::Incomplete)
    }
}

fn check(line: &[u8]) -> Line<'_> {
    match memchr2(b'\r', 0, line).map(|at| line[at]) {
        Some(0) => Line::Refused(LineError::Nul),
        Some(_) => Line::Refused(LineError::BareCr),
        None => Line::Complete(line),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All lines of `pieces`, read as they arrive.
    fn read_all(pieces: &[&[u8]]) -> Vec<Result<Vec<u8>, LineError>> {
        let mut reader = LineReader::default();
        let (mut buffer, mut lines) = (Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                let (consumed, line) = reader.read(&buffer, 8);
                match line {
                    Line::Incomplete => {
                        buffer.drain(..consumed);
                        break;
                    }
                    Line::Complete(line) => lines.push(Ok(line.to_vec())),
                    Line::Refused(error) => lines.push(Err(error)),
                }
                buffer.drain(..consumed);
            }
        }
        lines
    }

    #[test]
    fn lines() {
        use LineError::{BareCr, BareLf, Nul, TooLong};
        for (input, want) in [
            (&b"NOOP\r\nQUIT\r\nrest"[..], vec![Ok(b"NOOP".to_vec()), Ok(b"QUIT".to_vec())]),
            (b"\r\n", vec![Ok(vec![])]),
            (b"12345678\r\n", vec![Ok(b"12345678".to_vec())]),
            (b"123456789\r\n", vec![Err(TooLong)]),
            (b"123456789012345678901234567890\r\nA\r\n", vec![Err(TooLong), Ok(b"A".to_vec())]),
            (b"123456789\nA\r\n", vec![Err(BareLf), Ok(b"A".to_vec())]),
            (b"A\nB\r\n", vec![Err(BareLf), Ok(b"B".to_vec())]),
            (b"\n", vec![Err(BareLf)]),
            (b"A\rB\r\n", vec![Err(BareCr)]),
            (b"A\r\r\n", vec![Err(BareCr)]),
            (b"A\0B\r\n", vec![Err(Nul)]),
        ] {
            assert_eq!(read_all(&[input]), want, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            input in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'a'), Just(0u8)], 0..60),
            cuts in proptest::collection::vec(0usize..60, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= input.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&input[from..cut]);
                from = cut;
            }
            pieces.push(&input[from..]);
            prop_assert_eq!(read_all(&pieces), read_all(&[&input]));
        }
    }
}
