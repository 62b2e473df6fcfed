//! Content and records, read back from the disk.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use mail_types::QueueId;
use queue::contract::Cause;
use queue::stored::{StoredError, StoredMessage, StoredState};
use queue::{Content, ContentError, JobId, QueueError};

use crate::cache::Fresh;
use crate::disk::{self, DiskFile};
use crate::index::{Location, Places};
use crate::record::{self, ContentPlace, Entry, FilePart, Header};
use crate::segment;
use crate::shared::Shared;

/// Octets of a chunk of content.
pub(crate) const CHUNK: usize = 256 << 10;
/// How often a record that has just moved is looked for.
const TRIES: usize = 8;

/// The file of what was inline before a message was moved.
pub(crate) fn front_path(id: QueueId) -> String {
    format!("{}/{id}.front", disk::CONTENT)
}

/// The file of a body that was too large for the log.
pub(crate) fn body_path(id: QueueId) -> String {
    format!("{}/{id}.body", disk::CONTENT)
}

/// The message of a file name in the directory of content.
pub(crate) fn message_of(name: &str) -> Option<QueueId> {
    let id = name.strip_suffix(".front").or_else(|| name.strip_suffix(".body"))?;
    id.parse().ok()
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Its checksum is wrong, or it makes no sense.
    #[error("the record at {} of segment {} is damaged", .0.offset, .0.segment)]
    Damaged(Location),
    #[error("the record at {} of segment {} cannot be used", .0.offset, .0.segment)]
    Newer(Location, #[source] StoredError),
    #[error("the log cannot be read")]
    Io(#[from] io::Error),
}

impl ReadError {
    /// Whether the records are gone or wrong for good, and not only out of reach.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(..) => true,
            Self::Newer(..) => false,
            Self::Io(error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
            }
        }
    }

    /// The record that can be read and is not as it was written.
    pub(crate) fn damaged_at(&self) -> Option<Location> {
        match self {
            Self::Damaged(at) => Some(*at),
            Self::Newer(..) | Self::Io(_) => None,
        }
    }

    fn undecoded(error: StoredError, at: Location) -> Self {
        match error {
            StoredError::Damaged(_) => Self::Damaged(at),
            StoredError::Newer(_) => Self::Newer(at, error),
        }
    }
}

impl From<ReadError> for QueueError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable(Cause::from(error))
    }
}

/// A message as it was stored.
pub(crate) struct ReadMessage {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) place: ContentPlace,
}

/// A job as it was stored.
pub(crate) struct ReadJob {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) state: StoredState,
    pub(crate) places: Places,
}

/// Reads what is known of a job; `None` when it is no more. Blocks.
pub(crate) fn read_job(shared: &Shared, job: JobId) -> Result<Option<ReadJob>, ReadError> {
    at_its_place(shared, job, |places| {
        let cached = shared.index().cache.get(job.message).map(|f| Arc::clone(&f.message));
        let message = match cached {
            Some(message) => message,
            None => read_message(shared, places.message, job.message)?.message,
        };
        let state = match places.state {
            None => StoredState::fresh(&message.envelope),
            Some(at) => read_state(shared, at, job)?,
        };
        Ok(ReadJob { message, state, places })
    })
}

/// Reads at the places of a job, again when they have changed meanwhile.
fn at_its_place<T>(
    shared: &Shared,
    job: JobId,
    read: impl Fn(Places) -> Result<T, ReadError>,
) -> Result<Option<T>, ReadError> {
    let mut tries = 0;
    loop {
        let Some(places) = shared.index().schedule.payload(job).copied() else { return Ok(None) };
        tries += 1;
        match read(places) {
            Ok(value) => return Ok(Some(value)),
            Err(error) => {
                let moved = shared.index().schedule.payload(job) != Some(&places);
                if !moved || tries == TRIES {
                    return Err(error);
                }
            }
        }
    }
}

pub(crate) fn read_message(
    shared: &Shared,
    at: Location,
    id: QueueId,
) -> Result<ReadMessage, ReadError> {
    let meta = read_meta(shared, at)?;
    let (place, json) = record::entries(&meta)
        .find_map(|entry| match entry {
            Entry::Message(of, place, json) | Entry::Moved(of, place, json) if of == id => {
                Some((place, json))
            }
            Entry::Message(..) | Entry::Moved(..) | Entry::State(..) | Entry::Done(_) => None,
        })
        .ok_or(ReadError::Damaged(at))?;
    let message = StoredMessage::decode(json).map_err(|error| ReadError::undecoded(error, at))?;
    Ok(ReadMessage { message: Arc::new(message), place })
}

/// A message with what its record has of the content.
pub(crate) struct Whole {
    pub(crate) message: Arc<StoredMessage>,
    pub(crate) inline: Vec<Bytes>,
    /// Whether the inline content is as it was written.
    pub(crate) is_intact: bool,
    pub(crate) front: FilePart,
    pub(crate) rest: FilePart,
}

/// Reads a message to be moved, from memory if it is there: what is in memory cannot be damaged on
/// the disk. Blocks.
pub(crate) fn read_whole(shared: &Shared, at: Location, id: QueueId) -> Result<Whole, ReadError> {
    let fresh = shared.index().cache.get(id).cloned();
    if let Some(Fresh { message, inline, rest }) = fresh {
        return Ok(Whole { message, inline, is_intact: true, front: FilePart::default(), rest });
    }
    let ReadMessage { message, place } = read_message(shared, at, id)?;
    let ContentPlace { inline_at, inline_bytes, front, rest } = place;
    if inline_bytes == 0 {
        return Ok(Whole { message, inline: Vec::new(), is_intact: true, front, rest });
    }
    let (content, is_intact) = read_inline(shared, at)?;
    let start = (inline_at as usize).min(content.len());
    let end = (start + inline_bytes as usize).min(content.len());
    Ok(Whole { message, inline: vec![content.slice(start..end)], is_intact, front, rest })
}

pub(crate) fn read_state(
    shared: &Shared,
    at: Location,
    job: JobId,
) -> Result<StoredState, ReadError> {
    let meta = read_meta(shared, at)?;
    let json = record::entries(&meta)
        .find_map(|entry| match entry {
            Entry::State(of, json) if of == job => Some(json),
            Entry::Message(..) | Entry::Moved(..) | Entry::State(..) | Entry::Done(_) => None,
        })
        .ok_or(ReadError::Damaged(at))?;
    StoredState::decode(json).map_err(|error| ReadError::undecoded(error, at))
}

fn read_meta(shared: &Shared, at: Location) -> Result<Vec<u8>, ReadError> {
    let (file, mark) = open(shared, at)?;
    let mut head = vec![0; record::HEADER_BYTES + at.meta_bytes as usize];
    file.read_at(at.offset.into(), &mut head)?;
    let meta = record::checked_meta(&head, mark, at.offset);
    Ok(meta.ok_or(ReadError::Damaged(at))?.to_vec())
}

fn open(shared: &Shared, at: Location) -> Result<(Arc<dyn DiskFile>, u64), ReadError> {
    let segment = at.segment.get();
    let mark = shared.index().segments.get(&segment).map(|segment| segment.mark);
    let mark = mark.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok((shared.disk.open(&segment::path(segment))?, mark))
}

/// The content of a record, and whether it is as it was written.
pub(crate) fn read_inline(shared: &Shared, at: Location) -> Result<(Bytes, bool), ReadError> {
    let (file, mark) = open(shared, at)?;
    let head_bytes = record::HEADER_BYTES + at.meta_bytes as usize;
    let mut bytes = vec![0; head_bytes + at.content_bytes as usize];
    file.read_at(at.offset.into(), &mut bytes)?;
    let header = Header::parse(&bytes, mark);
    let header = header.ok_or(ReadError::Damaged(at))?;
    let content = Bytes::from(bytes).slice(head_bytes..);
    let is_intact = crc32c::crc32c(&content) == header.content_crc;
    Ok((content, is_intact))
}

/// Content by its parts, in order.
enum Part {
    Bytes(Bytes),
    File { file: Arc<dyn DiskFile>, at: u64, left: u64, crc: u32, wanted: u32 },
}

/// The content of a job's message.
pub(crate) async fn content(shared: &Arc<Shared>, job: JobId) -> Result<Content, ContentError> {
    let fresh = shared.index().cache.get(job.message).cloned();
    let shared = Arc::clone(shared);
    let parts = match fresh {
        Some(fresh) if fresh.rest.bytes == 0 => fresh.inline.into_iter().map(Part::Bytes).collect(),
        Some(_) | None => tokio::task::spawn_blocking(move || parts(&shared, job))
            .await
            .map_err(|error| ContentError::Unavailable(error.into()))??,
    };
    let size = parts.iter().map(Part::len).sum();
    Ok(Content { size, chunks: chunks(parts) })
}

fn parts(shared: &Shared, job: JobId) -> Result<Vec<Part>, ContentError> {
    let parts = at_its_place(shared, job, |places| {
        let place = read_message(shared, places.message, job.message)?.place;
        let mut parts = Vec::new();
        if place.inline_bytes > 0 {
            let (content, is_intact) = read_inline(shared, places.message)?;
            let start = place.inline_at as usize;
            let inline = start..start + place.inline_bytes as usize;
            if !is_intact || inline.end > content.len() {
                return Err(ReadError::Damaged(places.message));
            }
            parts.push(Part::Bytes(content.slice(inline)));
        }
        for (path, part) in
            [(front_path(job.message), place.front), (body_path(job.message), place.rest)]
        {
            if part.bytes > 0 {
                parts.push(file_part(shared, &path, part)?);
            }
        }
        Ok(parts)
    });
    match parts {
        Ok(Some(parts)) => Ok(parts),
        Ok(None) => Err(ContentError::Unavailable("the job is no more".into())),
        Err(error @ ReadError::Damaged(..)) => Err(ContentError::Damaged(error.to_string().into())),
        Err(ReadError::Io(error))
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) =>
        {
            Err(ContentError::Damaged("part of the content is not there".into()))
        }
        Err(error @ (ReadError::Io(_) | ReadError::Newer(..))) => {
            Err(ContentError::Unavailable(error.into()))
        }
    }
}

fn file_part(shared: &Shared, path: &str, part: FilePart) -> Result<Part, ReadError> {
    let file = shared.disk.open(path)?;
    if file.len()? < part.bytes {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Part::File { file, at: 0, left: part.bytes, crc: 0, wanted: part.crc })
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { left, .. } => *left,
        }
    }

    /// The next chunk; the last of a file only if the file is as it was written. Blocks.
    fn next(&mut self) -> Result<Bytes, ContentError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.split_to(bytes.len().min(CHUNK))),
            Self::File { file, at, left, crc, wanted } => {
                let len = usize::try_from(*left).unwrap_or(CHUNK).min(CHUNK);
                let mut chunk = vec![0; len];
                file.read_at(*at, &mut chunk)
                    .map_err(|error| ContentError::Unavailable(error.into()))?;
                *at += len as u64;
                *left -= len as u64;
                *crc = crc32c::crc32c_append(*crc, &chunk);
                if *left == 0 && crc != wanted {
                    return Err(ContentError::Damaged("a file of content is damaged".into()));
                }
                Ok(chunk.into())
            }
        }
    }
}

fn chunks(parts: Vec<Part>) -> BoxStream<'static, Result<Bytes, ContentError>> {
    let mut parts: std::collections::VecDeque<Part> = parts.into();
    parts.retain(|part| part.len() > 0);
    stream::unfold(parts, |mut parts| async move {
        let mut part = parts.pop_front()?;
        let (chunk, part) = match part {
            Part::Bytes(_) => (part.next(), part),
            Part::File { .. } => {
                let read = tokio::task::spawn_blocking(move || (part.next(), part)).await;
                match read {
                    Ok(read) => read,
                    Err(error) => {
                        let error = ContentError::Unavailable(error.into());
                        return Some((Err(error), std::collections::VecDeque::new()));
                    }
                }
            }
        };
        if chunk.is_err() {
            parts.clear();
        } else if part.len() > 0 {
            parts.push_front(part);
        }
        Some((chunk, parts))
    })
    .boxed()
}
