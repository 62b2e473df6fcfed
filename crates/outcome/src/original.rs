//! The part of a message that a DSN returns.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use mail_types::Ret;
use queue::{ContentError, Job, Lease};

/// Above this, a DSN returns the header block only.
const FULL_BYTES_MAX: u64 = 50_000;
/// Of a header block larger than this, the DSN returns the beginning.
const HEADER_BYTES_MAX: usize = 50_000;

/// How much is returned (RFC 3461 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OriginalPart {
    Headers,
    Full,
}

impl OriginalPart {
    /// RET is about failures; other DSNs return headers. Without RET a failure returns the whole.
    pub(crate) fn returned(job: &Job, failed: bool) -> Self {
        match job.envelope.ret {
            Some(Ret::Full) | None if failed && job.size <= FULL_BYTES_MAX => Self::Full,
            Some(Ret::Full | Ret::Hdrs) | None => Self::Headers,
        }
    }
}

/// What was read of the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Original {
    /// The header block without the empty line after it.
    Headers(Bytes),
    Full(Bytes),
}

impl Original {
    /// For a settlement without DSN.
    pub const NONE: Self = Self::Headers(Bytes::new());

    /// Reads the part from the queue, at most 50 KB and one chunk.
    pub async fn read(lease: &dyn Lease, part: OriginalPart) -> Result<Self, ContentError> {
        Self::read_from(lease.content().await?.chunks, part).await
    }

    async fn read_from(
        mut chunks: impl Stream<Item = Result<Bytes, ContentError>> + Unpin,
        part: OriginalPart,
    ) -> Result<Self, ContentError> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk?);
            let enough = bytes.len() > HEADER_BYTES_MAX || header_end(&bytes).is_some();
            if part == OriginalPart::Headers && enough {
                break;
            }
        }
        let bytes = bytes.freeze();
        Ok(match part {
            OriginalPart::Full => Self::Full(bytes),
            OriginalPart::Headers => Self::Headers(header_block(&bytes)),
        })
    }

    /// The header block, whichever part was read.
    pub(crate) fn headers(&self) -> Bytes {
        match self {
            Self::Headers(headers) => headers.clone(),
            Self::Full(content) => header_block(content),
        }
    }
}

/// The end of the last header field.
fn header_end(content: &[u8]) -> Option<usize> {
    if content.starts_with(b"\r\n") {
        return Some(0);
    }
    content.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 2)
}

/// Whole lines of the header block, as far as there is room.
fn header_block(content: &Bytes) -> Bytes {
    let end = header_end(content).unwrap_or(content.len());
    if end <= HEADER_BYTES_MAX {
        return content.slice(..end);
    }
    let lines = content[..HEADER_BYTES_MAX].windows(2).rposition(|window| window == b"\r\n");
    content.slice(..lines.map_or(0, |at| at + 2))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// What is read of chunks, of which `None` cannot be read.
    fn read(chunks: &[Option<&'static [u8]>], part: OriginalPart) -> Option<Original> {
        let chunk = |chunk: &Option<&'static [u8]>| match chunk {
            Some(octets) => Ok(Bytes::from_static(octets)),
            None => Err(ContentError::Damaged("a fault of the test".into())),
        };
        let chunks = futures::stream::iter(chunks.iter().map(chunk));
        Original::read_from(chunks, part).now_or_never()?.ok()
    }

    #[test]
    fn no_more_is_read_than_is_returned() {
        use OriginalPart::{Full, Headers};
        const LONG: &[u8] = &[b'x'; HEADER_BYTES_MAX];
        let headers = |octets: &'static [u8]| Some(Original::Headers(octets.into()));
        // The end of the header block is cut anywhere.
        const CUTS: [[Option<&[u8]>; 2]; 2] =
            [[Some(b"A: b\r\n\r"), Some(b"\nx")], [Some(b"A: b\r\n"), Some(b"\r\n")]];
        for [first, second] in CUTS {
            assert_eq!(read(&[first, second, None], Headers), headers(b"A: b\r\n"));
            assert_eq!(read(&[first, second, None], Full), None);
            assert_eq!(read(&[first, None], Headers), None);
        }
        let whole = Some(Original::Full(b"A: b\r\n\r\nbody".as_slice().into()));
        assert_eq!(read(&[Some(b"A: b\r\n\r\n"), Some(b"body")], Full), whole);
        // A header block without an end.
        assert_eq!(read(&[Some(b"A: b\r\n"), Some(LONG), None], Headers), headers(b"A: b\r\n"));
        assert_eq!(read(&[Some(b"A: b\r\n"), None], Headers), None);
    }

    #[test]
    fn header_blocks() {
        for (content, want) in [
            (&b"A: b\r\nC: d\r\n\r\nbody"[..], &b"A: b\r\nC: d\r\n"[..]),
            (b"\r\nbody", b""),
            (b"A: b\r\n", b"A: b\r\n"),
        ] {
            assert_eq!(header_block(&Bytes::copy_from_slice(content)), want);
        }
        let long = Bytes::from(b"A: 3456789\r\n".repeat(10_000));
        let cut = header_block(&long);
        assert!(cut.len() <= HEADER_BYTES_MAX && cut.ends_with(b"\r\n") && cut.len() > 49_000);
    }
}
