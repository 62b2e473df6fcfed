//! The header block, collected as content comes in; the body passes.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use message::header;

/// Header fields up to and with the empty line (RFC 5322 §2.1).
///
/// A line that is no field ends the block too, as if an empty line stood before it: what is sent on
/// must not let a body be read as fields of ours.
#[derive(Debug)]
pub(super) struct HeaderBlock {
    bytes: BytesMut,
    /// Where the first line begins that has not been looked at.
    line: usize,
    /// Up to here there is no end of that line.
    scanned: usize,
    octets_max: usize,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Collecting,
    Ended,
}

/// The block is longer than its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header block is too long")]
pub(super) struct HeaderTooLarge;

impl HeaderBlock {
    pub(super) fn new(octets_max: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            line: 0,
            scanned: 0,
            octets_max,
            progress: Progress::Collecting,
        }
    }

    /// Takes the next octets of the content; returns those that are body.
    pub(super) fn take(&mut self, octets: Bytes) -> Result<Bytes, HeaderTooLarge> {
        if self.progress == Progress::Ended {
            return Ok(octets);
        }
        let before = self.bytes.len();
        // At the first empty line the block ends, if not before.
        let end = memmem::find(&octets, b"\r\n\r\n").map_or(octets.len(), |at| at + 4);
        let window = end.min((self.octets_max + 1).saturating_sub(before));
        self.bytes.extend_from_slice(&octets[..window]);
        self.scan();
        if self.progress == Progress::Ended {
            // The block ends within what was just added, or at a line that began before it.
            let body = self.bytes.split_off(self.line);
            let separated = self.bytes.ends_with(b"\r\n\r\n") || self.bytes[..] == b"\r\n"[..];
            if !separated {
                self.bytes.extend_from_slice(b"\r\n");
            }
            if body.len() <= window {
                return Ok(octets.slice(window - body.len()..));
            }
            let mut whole = body;
            whole.extend_from_slice(&octets[window..]);
            return Ok(whole.freeze());
        }
        if self.bytes.len() > self.octets_max { Err(HeaderTooLarge) } else { Ok(Bytes::new()) }
    }

    fn scan(&mut self) {
        while let Some(found) = memmem::find(&self.bytes[self.scanned..], b"\r\n") {
            let end = self.scanned + found;
            let line = &self.bytes[self.line..end];
            let continues = self.line > 0 && matches!(line.first(), Some(b' ' | b'\t'));
            let empty = line.is_empty();
            let ended = empty || !(continues || header::fields(line).next().is_some());
            if empty || !ended {
                self.line = end + 2;
            }
            if ended {
                self.progress = Progress::Ended;
                return;
            }
            self.scanned = self.line;
        }
        // The last octet may be the CR of a pair.
        self.scanned = self.line.max(self.bytes.len().saturating_sub(1));
    }

    /// What was collected: all of it, when the content is complete.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), HeaderTooLarge> {
        let mut block = HeaderBlock::new(40);
        let mut body = Vec::new();
        for piece in pieces {
            body.extend(block.take(Bytes::copy_from_slice(piece))?);
        }
        Ok((block.bytes().to_vec(), body))
    }

    #[test]
    fn blocks() {
        for (content, header, body) in [
            ("A: 1\r\n\r\nbody\r\n", "A: 1\r\n\r\n", "body\r\n"),
            ("A: 1\r\n b\r\nC : 2\r\n\r\n", "A: 1\r\n b\r\nC : 2\r\n\r\n", ""),
            ("A: 1\r\n", "A: 1\r\n", ""),
            ("\r\nbody\r\n", "\r\n", "body\r\n"),
            ("no field\r\n", "\r\n", "no field\r\n"),
            (" continues nothing\r\n", "\r\n", " continues nothing\r\n"),
            ("A: 1\r\nno field\r\nB: 2\r\n", "A: 1\r\n\r\n", "no field\r\nB: 2\r\n"),
            ("", "", ""),
        ] {
            let want = (header.as_bytes().to_vec(), body.as_bytes().to_vec());
            assert_eq!(split(&[content.as_bytes()]), Ok(want.clone()), "{content:?}");
            let bytes: Vec<&[u8]> = content.as_bytes().chunks(1).collect();
            assert_eq!(split(&bytes), Ok(want), "bytewise {content:?}");
        }
        assert_eq!(split(&[&b"A: 1\r\n".repeat(7)]), Err(HeaderTooLarge));
        assert_eq!(split(&[&[b'a'; 100]]), Err(HeaderTooLarge));
        assert!(split(&[&b"A: 1\r\n".repeat(6), b"\r\n"]).is_ok());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            words in proptest::collection::vec(
                proptest::sample::select(vec!["A: b", "\r\n", " x", "text", "\t"]), 0..12),
            cuts in proptest::collection::vec(0usize..60, 0..6),
        ) {
            let content = words.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|c| *c <= content.len()).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> =
                cuts.windows(2).map(|w| &content.as_bytes()[w[0]..w[1]]).collect();
            let (split, whole) = (split(&pieces), split(&[content.as_bytes()]));
            prop_assert_eq!(split.is_err(), whole.is_err());
            if let (Ok(split), Ok(whole)) = (split, whole) {
                prop_assert_eq!(split, whole);
            }
        }
    }
}
