//! Mail data that comes by count (RFC 3030 §2).

use memchr::memchr2;

use super::ContentFault;

/// Holds BDAT content to the rule of DATA: CR and LF only as a pair.
///
/// BDAT cannot be smuggled into, but what it carries may be sent on by DATA, which can.
#[derive(Debug)]
pub struct ChunkChecker {
    /// The last octet was a CR.
    cr: bool,
    line_octets: usize,
    line_octets_max: usize,
}

impl ChunkChecker {
    /// `line_octets_max` bounds a text line, not counting CR LF.
    pub fn new(line_octets_max: usize) -> Self {
        Self { cr: false, line_octets: 0, line_octets_max }
    }

    /// Checks the next octets of the content.
    ///
    /// # Errors
    /// The first fault; the content is then to be refused.
    pub fn check(&mut self, octets: &[u8]) -> Result<(), ContentFault> {
        let mut line = 0;
        if self.cr {
            match octets {
                [] => return Ok(()),
                [b'\n', ..] => line = 1,
                _ => return Err(ContentFault::BareCr),
            }
            (self.cr, self.line_octets) = (false, 0);
        }
        while let Some(found) = memchr2(b'\r', b'\n', &octets[line..]) {
            self.grow(found)?;
            match &octets[line + found..] {
                [b'\r', b'\n', ..] => line += found + 2,
                [b'\r'] => {
                    self.cr = true;
                    return Ok(());
                }
                [b'\r', ..] => return Err(ContentFault::BareCr),
                _ => return Err(ContentFault::BareLf),
            }
            self.line_octets = 0;
        }
        self.grow(octets.len() - line)
    }

    /// The content ends here: whether its last line is complete.
    ///
    /// # Errors
    /// The content ends in a CR.
    pub fn finish(&self) -> Result<LastLine, ContentFault> {
        match (self.cr, self.line_octets) {
            (true, _) => Err(ContentFault::BareCr),
            (false, 0) => Ok(LastLine::Complete),
            (false, _) => Ok(LastLine::Open),
        }
    }

    fn grow(&mut self, octets: usize) -> Result<(), ContentFault> {
        self.line_octets += octets;
        if self.line_octets > self.line_octets_max {
            return Err(ContentFault::LineTooLong);
        }
        Ok(())
    }
}

/// How content by count ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLine {
    /// In CR LF, or there is no line at all.
    Complete,
    /// Without CR LF: whoever stores it as lines adds one.
    Open,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_all(pieces: &[&[u8]]) -> Result<LastLine, ContentFault> {
        let mut checker = ChunkChecker::new(8);
        for piece in pieces {
            checker.check(piece)?;
        }
        checker.finish()
    }

    #[test]
    fn faults_are_found_at_any_split() {
        use ContentFault::{BareCr, BareLf, LineTooLong};
        for (input, want) in [
            (&b""[..], Ok(LastLine::Complete)),
            (b"a\r\n\r\n", Ok(LastLine::Complete)),
            (b"a\r\nb", Ok(LastLine::Open)),
            (b"12345678\r\n12345678", Ok(LastLine::Open)),
            (b"123456789\r\n", Err(LineTooLong)),
            (b"a\rb", Err(BareCr)),
            (b"a\r\r\n", Err(BareCr)),
            (b"a\r", Err(BareCr)),
            (b"a\nb", Err(BareLf)),
            (b"a\r\n\n", Err(BareLf)),
            (b"\n", Err(BareLf)),
        ] {
            assert_eq!(check_all(&[input]), want, "{}", input.escape_ascii());
            for at in 0..input.len() {
                let (a, b) = input.split_at(at);
                assert_eq!(check_all(&[a, b]), want, "{} at {at}", input.escape_ascii());
            }
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(check_all(&bytes), want, "bytewise {}", input.escape_ascii());
        }
    }
}
