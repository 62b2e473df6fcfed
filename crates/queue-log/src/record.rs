//! What one step appends: a record of entries, whole or not there.
//!
//! ```text
//! record   mark 8 │ version 1 │ 0 3 │ meta length 4 │ content length 4 │ content crc 4
//!          │ batch 4 │ head crc 4 │ meta: entries │ content │ zeros to a multiple of 8
//! entry    kind 1 │ 0 1 │ job 2 │ length 4 │ message 16 │ body
//! message  inline at 4, length 4 │ front length 8, crc 4 │ rest length 8, crc 4 │ JSON
//! ```
//!
//! Numbers are little-endian; checksums are CRC-32C. The head's covers the offset of the record,
//! the fields before it and the meta. The *mark* is a random number of the segment: content that
//! looks like a record cannot be taken for one. The *batch* is the offset of the first record that
//! was synced together with this one: what lies before it was durable when it was written.

use bytes::Bytes;
use mail_types::QueueId;
use queue::JobId;
use queue::stored::{StoredMessage, StoredState};

pub(crate) const HEADER_BYTES: usize = 32;
const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 24;
const PLACE_BYTES: usize = 32;
pub(crate) const ALIGNMENT: usize = 8;

/// Where the content of a message is: the parts follow one another, an empty part is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ContentPlace {
    /// From here on in the content of the record.
    pub(crate) inline_at: u32,
    pub(crate) inline_bytes: u32,
    /// What was inline before the message was moved.
    pub(crate) front: FilePart,
    /// A body that was too large for the log.
    pub(crate) rest: FilePart,
}

/// A file of content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FilePart {
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Message = 1,
    State = 2,
    Done = 3,
    Moved = 4,
}

/// An entry as it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry<'a> {
    /// A message was accepted with all its jobs.
    Message(QueueId, ContentPlace, &'a [u8]),
    /// A message has another place; the states of its jobs follow.
    Moved(QueueId, ContentPlace, &'a [u8]),
    State(JobId, &'a [u8]),
    Done(JobId),
}

/// A record in the making.
#[derive(Default)]
pub(crate) struct Draft {
    meta: Vec<u8>,
    content: Vec<Bytes>,
    content_bytes: usize,
}

/// A record that has yet to be given its place.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The header, empty but for what is known, and the meta.
    head: Vec<u8>,
    content: Vec<Bytes>,
    content_bytes: u32,
}

/// A record is too large for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is too large for the log")]
pub(crate) struct TooLarge;

impl Draft {
    pub(crate) fn new() -> Self {
        let mut meta = Vec::with_capacity(1024);
        meta.resize(HEADER_BYTES, 0);
        Self { meta, ..Self::default() }
    }

    /// A new message. `inline` is the content, or its head when the body is in a file, `rest`.
    pub(crate) fn message(&mut self, message: &StoredMessage, inline: &[Bytes], rest: FilePart) {
        let inline_at = self.content_bytes;
        for part in inline.iter().filter(|part| !part.is_empty()) {
            self.content_bytes += part.len();
            self.content.push(part.clone());
        }
        // `finish` refuses what does not fit.
        let place = ContentPlace {
            inline_at: u32::try_from(inline_at).unwrap_or(u32::MAX),
            inline_bytes: u32::try_from(self.content_bytes - inline_at).unwrap_or(u32::MAX),
            front: FilePart::default(),
            rest,
        };
        self.message_entry(Kind::Message, message, place);
    }

    /// A message whose content is in files. The states of its jobs must follow.
    pub(crate) fn moved(&mut self, message: &StoredMessage, front: FilePart, rest: FilePart) {
        let place = ContentPlace { front, rest, ..ContentPlace::default() };
        self.message_entry(Kind::Moved, message, place);
    }

    pub(crate) fn state(&mut self, job: JobId, state: &StoredState) {
        self.entry(Kind::State, job, &[&state.encode()]);
    }

    pub(crate) fn done(&mut self, job: JobId) {
        self.entry(Kind::Done, job, &[]);
    }

    fn message_entry(&mut self, kind: Kind, message: &StoredMessage, place: ContentPlace) {
        let job = JobId { message: message.id, index: 0 };
        self.entry(kind, job, &[&place.encode(), &message.encode()]);
    }

    fn entry(&mut self, kind: Kind, job: JobId, body: &[&[u8]]) {
        let len: usize = body.iter().map(|part| part.len()).sum();
        self.meta.extend([kind as u8, 0]);
        self.meta.extend(job.index.to_le_bytes());
        self.meta.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        self.meta.extend(job.message.to_bytes());
        body.iter().for_each(|part| self.meta.extend_from_slice(part));
    }

    pub(crate) fn finish(self) -> Result<Record, TooLarge> {
        let meta_bytes = u32::try_from(self.meta.len() - HEADER_BYTES).map_err(|_| TooLarge)?;
        let content_bytes = u32::try_from(self.content_bytes).map_err(|_| TooLarge)?;
        if u64::from(meta_bytes) + u64::from(content_bytes) > RECORD_MAX {
            return Err(TooLarge);
        }
        let content_crc = self.content.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let mut head = self.meta;
        head[8] = VERSION;
        head[12..16].copy_from_slice(&meta_bytes.to_le_bytes());
        head[16..20].copy_from_slice(&content_bytes.to_le_bytes());
        head[20..24].copy_from_slice(&content_crc.to_le_bytes());
        Ok(Record { head, content: self.content, content_bytes })
    }
}

/// Octets that a record may have: far above what a header block and a large envelope take.
pub(crate) const RECORD_MAX: u64 = 1 << 30;

impl Record {
    /// Octets in the log.
    pub(crate) fn len(&self) -> u32 {
        padded(self.head.len() as u64 + u64::from(self.content_bytes))
    }

    pub(crate) fn meta_bytes(&self) -> u32 {
        (self.head.len() - HEADER_BYTES) as u32
    }

    pub(crate) fn content_bytes(&self) -> u32 {
        self.content_bytes
    }

    /// Gives the record its place; it is then ready to be written there.
    pub(crate) fn place(&mut self, mark: u64, batch: u32, offset: u32) {
        self.head[..8].copy_from_slice(&mark.to_le_bytes());
        self.head[24..28].copy_from_slice(&batch.to_le_bytes());
        let crc = head_crc(&self.head, offset);
        self.head[28..32].copy_from_slice(&crc.to_le_bytes());
    }

    /// The octets in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];
        let written = self.head.len() + self.content_bytes as usize;
        let padding = &ZEROS[..self.len() as usize - written];
        std::iter::once(&self.head[..])
            .chain(self.content.iter().map(|part| &part[..]))
            .chain(std::iter::once(padding))
            .filter(|part| !part.is_empty())
    }
}

fn padded(len: u64) -> u32 {
    // At most `RECORD_MAX` and a header.
    u32::try_from(len.next_multiple_of(ALIGNMENT as u64)).unwrap_or(u32::MAX)
}

fn head_crc(head: &[u8], offset: u32) -> u32 {
    let crc = crc32c::crc32c(&offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &head[..28]);
    crc32c::crc32c_append(crc, &head[HEADER_BYTES..])
}

/// The fields of a header, before anything is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) meta_bytes: u32,
    pub(crate) content_bytes: u32,
    pub(crate) content_crc: u32,
    pub(crate) batch: u32,
}

impl Header {
    /// The header at the beginning of `bytes`, if it can be one in this segment.
    pub(crate) fn parse(bytes: &[u8], mark: u64) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        if header[..8] != mark.to_le_bytes() || header[8] != VERSION {
            return None;
        }
        let header = Self {
            meta_bytes: u32_at(header, 12),
            content_bytes: u32_at(header, 16),
            content_crc: u32_at(header, 20),
            batch: u32_at(header, 24),
        };
        let len = u64::from(header.meta_bytes) + u64::from(header.content_bytes);
        (len <= RECORD_MAX).then_some(header)
    }

    pub(crate) fn head_bytes(&self) -> usize {
        HEADER_BYTES + self.meta_bytes as usize
    }

    /// Octets in the log.
    pub(crate) fn len(&self) -> usize {
        padded(self.head_bytes() as u64 + u64::from(self.content_bytes)) as usize
    }
}

/// The meta of the record whose header and meta are `head`, if they are as they were written.
pub(crate) fn checked_meta(head: &[u8], mark: u64, offset: u32) -> Option<&[u8]> {
    let header = Header::parse(head, mark)?;
    let head = head.get(..header.head_bytes())?;
    (head_crc(head, offset) == u32_at(head, 28)).then(|| &head[HEADER_BYTES..])
}

/// The entries of a meta. Ends where it makes no sense: its checksum says that it was written so.
pub(crate) fn entries(meta: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = meta;
    std::iter::from_fn(move || {
        let (entry, after) = split_entry(rest)?;
        rest = after;
        Some(entry)
    })
}

fn split_entry(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_BYTES)?;
    let (body, rest) = rest.split_at_checked(u32_at(head, 4) as usize)?;
    let message = QueueId::from_bytes(*head[8..].first_chunk()?);
    let job = JobId { message, index: u16::from_le_bytes([head[2], head[3]]) };
    let message_parts = || {
        let (place, json) = body.split_first_chunk::<PLACE_BYTES>()?;
        Some((ContentPlace::decode(place), json))
    };
    let entry = match head[0] {
        1 => message_parts().map(|(place, json)| Entry::Message(message, place, json))?,
        2 => Entry::State(job, body),
        3 => Entry::Done(job),
        4 => message_parts().map(|(place, json)| Entry::Moved(message, place, json))?,
        _ => return None,
    };
    Some((entry, rest))
}

impl ContentPlace {
    fn encode(&self) -> [u8; PLACE_BYTES] {
        let mut bytes = [0; PLACE_BYTES];
        bytes[..4].copy_from_slice(&self.inline_at.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.inline_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.front.bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.front.crc.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.rest.bytes.to_le_bytes());
        bytes[28..].copy_from_slice(&self.rest.crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; PLACE_BYTES]) -> Self {
        let part = |at| FilePart { bytes: u64_at(bytes, at), crc: u32_at(bytes, at + 8) };
        Self {
            inline_at: u32_at(bytes, 0),
            inline_bytes: u32_at(bytes, 4),
            front: part(8),
            rest: part(20),
        }
    }
}

/// # Panics
/// When there are not that many octets: callers have checked.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// # Panics
/// As [`u32_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
impl Draft {
    pub(crate) fn with_content(&mut self, content: &'static [u8]) {
        self.content_bytes += content.len();
        self.content.push(Bytes::from_static(content));
    }
}

#[cfg(test)]
mod tests;
