//! A file of the log, and what is read from one.
//!
//! ```text
//! header  magic 8 │ version 4 │ crc 4 │ sequence 4 │ end 4 │ mark 8 │ previous 4, valid up to 4
//! file    header at 0 and again at 2048 │ records from 4096 on │ zeros
//! ```
//!
//! *Valid up to* ends the previous segment: what lies behind was refused, or torn by a crash, and
//! must not come back. It is durable before anybody is told of a refusal. *End* says whether the
//! last batch before that place was torn too.

use std::ops::Range;

use memchr::memmem;

use crate::record::{self, ALIGNMENT, Header, u32_at, u64_at};

/// Where records begin.
pub(crate) const DATA_START: u32 = 4096;
const COPY_AT: usize = 2048;
const MAGIC: &[u8; 8] = b"PRqueue\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;

/// What a segment says of itself and of the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) sequence: u32,
    pub(crate) mark: u64,
    /// 0 in the first.
    pub(crate) previous: u32,
    pub(crate) previous_valid_to: u32,
    pub(crate) previous_end: End,
}

/// How a segment ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum End {
    /// All that is valid was synced.
    #[default]
    Synced,
    /// A crash tore some records of the last batch; nobody was told of any.
    Torn,
}

/// Why a header is not to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SegmentError {
    #[error("no header")]
    Unused,
    #[error("the header is damaged")]
    Damaged,
    #[error("version {0} is newer than this program: upgrade it")]
    Newer(u32),
}

/// The path of a segment.
pub(crate) fn path(sequence: u32) -> String {
    format!("log/{sequence:010}.seg")
}

/// The segment of a file name in the directory of the log.
pub(crate) fn sequence(name: &str) -> Option<u32> {
    name.strip_suffix(".seg")?.parse().ok()
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend([0; 4]);
        header.extend(self.sequence.to_le_bytes());
        header.extend(u32::from(self.previous_end == End::Torn).to_le_bytes());
        header.extend(self.mark.to_le_bytes());
        header.extend(self.previous.to_le_bytes());
        header.extend(self.previous_valid_to.to_le_bytes());
        let crc = crc32c::crc32c(&header);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        let mut bytes = vec![0; DATA_START as usize];
        bytes[..HEADER_BYTES].copy_from_slice(&header);
        bytes[COPY_AT..COPY_AT + HEADER_BYTES].copy_from_slice(&header);
        bytes
    }

    /// Either copy will do.
    pub(crate) fn decode(segment: &[u8]) -> Result<Self, SegmentError> {
        let copies = [0, COPY_AT].map(|at| segment.get(at..at + HEADER_BYTES).map(Self::copy));
        let mut worst = SegmentError::Unused;
        for copy in copies.into_iter().flatten() {
            match copy {
                Ok(header) => return Ok(header),
                Err(SegmentError::Unused) => {}
                Err(error @ (SegmentError::Damaged | SegmentError::Newer(_))) => worst = error,
            }
        }
        if worst == SegmentError::Unused && segment.iter().any(|&b| b != 0) {
            worst = SegmentError::Damaged;
        }
        Err(worst)
    }

    fn copy(header: &[u8]) -> Result<Self, SegmentError> {
        if header.iter().all(|&b| b == 0) {
            return Err(SegmentError::Unused);
        }
        let mut without_crc = [0; HEADER_BYTES];
        without_crc.copy_from_slice(header);
        without_crc[12..16].fill(0);
        if &header[..8] != MAGIC || crc32c::crc32c(&without_crc) != u32_at(header, 12) {
            return Err(SegmentError::Damaged);
        }
        match u32_at(header, 8) {
            VERSION => Ok(Self {
                sequence: u32_at(header, 16),
                mark: u64_at(header, 24),
                previous: u32_at(header, 32),
                previous_valid_to: u32_at(header, 36),
                previous_end: if u32_at(header, 20) == 0 { End::Synced } else { End::Torn },
            }),
            version => Err(SegmentError::Newer(version)),
        }
    }
}

/// What lies at a place of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece<'a> {
    Record(Found<'a>),
    /// Octets that are no record.
    Gap(Range<usize>),
}

#[cfg(test)]
impl Piece<'_> {
    /// How many entries there are.
    pub(crate) fn entries(&self) -> usize {
        match self {
            Self::Record(found) => record::entries(found.meta).count(),
            Self::Gap(_) => 0,
        }
    }
}

/// A record whose meta is as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) range: Range<usize>,
    pub(crate) meta: &'a [u8],
    pub(crate) content_bytes: u32,
    pub(crate) content_is_intact: bool,
    pub(crate) batch: u32,
}

/// Reads `segment` from `from` on, past what is damaged, up to where only zeros follow.
pub(crate) fn scan(segment: &[u8], mark: u64, from: usize) -> impl Iterator<Item = Piece<'_>> {
    let mut at = from;
    std::iter::from_fn(move || {
        let rest = segment.get(at..).filter(|rest| !rest.is_empty())?;
        if let Some(found) = found_at(segment, mark, at) {
            at = found.range.end;
            return Some(Piece::Record(found));
        }
        let end = next_record(segment, mark, at + ALIGNMENT);
        if end.is_none() && is_zero(rest) {
            at = segment.len();
            return None;
        }
        let gap = at..end.unwrap_or(segment.len());
        at = gap.end;
        Some(Piece::Gap(gap))
    })
}

/// The record that begins at `at`.
fn found_at(segment: &[u8], mark: u64, at: usize) -> Option<Found<'_>> {
    let offset = u32::try_from(at).ok()?;
    let bytes = &segment[at..];
    let header = Header::parse(bytes, mark)?;
    let meta = record::checked_meta(bytes, mark, offset)?;
    let content = bytes.get(header.head_bytes()..)?;
    let content = content.get(..header.content_bytes as usize);
    Some(Found {
        range: at..(at + header.len()).min(segment.len()),
        meta,
        content_bytes: header.content_bytes,
        content_is_intact: content.is_some_and(|c| crc32c::crc32c(c) == header.content_crc),
        batch: header.batch,
    })
}

/// The first place from `from` on at which a record begins.
fn next_record(segment: &[u8], mark: u64, from: usize) -> Option<usize> {
    let mark_bytes = mark.to_le_bytes();
    memmem::find_iter(segment.get(from..)?, &mark_bytes)
        .map(|at| from + at)
        .find(|at| at % ALIGNMENT == 0 && found_at(segment, mark, *at).is_some())
}

fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|&b| b == 0)
}

#[cfg(test)]
mod tests;
