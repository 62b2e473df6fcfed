//! Content in the body streams: written once, in chunks, and read back.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use mail_types::QueueId;
use queue::ContentError;
use queue::contract::Cause;
use tokio::task::{JoinError, JoinSet};

use crate::broker::{Broker, Publish, PublishError};
use crate::frame::Section;
use crate::names::{body_stream, body_subject};
use crate::record::{Arrival, Chunk, Chunks, Manifest, ManifestPlace};

/// Octets of a chunk.
pub(crate) const CHUNK: usize = 256 << 10;
/// Chunks on their way to the servers at once.
const IN_FLIGHT: usize = 3;
/// How often a chunk is looked for.
const LOOKS: usize = 6;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Numbers of chunks, which their message ids have: those of a draft begin at 0.
pub(crate) const HEAD: usize = 1_000_000;
const COPIED: usize = 2_000_000;

/// Which message a body stream's message belongs to, for those who look for orphans.
pub(crate) const OF_MESSAGE: &str = "Postrider-Message";

/// Writes the content of a message to a body stream.
pub(crate) struct BodyWriter {
    broker: Broker,
    message: QueueId,
    stream: u16,
    pending: BytesMut,
    /// Aborted when dropped.
    in_flight: JoinSet<(usize, Result<Chunk, PublishError>)>,
    written: Vec<(usize, Chunk)>,
    count: usize,
    /// What was lost cannot be made up for: nothing that comes after is of use.
    failure: Option<PublishError>,
}

impl BodyWriter {
    pub(crate) fn new(broker: Broker, message: QueueId, stream: u16) -> Self {
        Self {
            broker,
            message,
            stream,
            pending: BytesMut::new(),
            in_flight: JoinSet::new(),
            written: Vec::new(),
            count: 0,
            failure: None,
        }
    }

    /// The same for what is added to a message that has chunks of a first writer.
    pub(crate) fn more(broker: Broker, message: QueueId, stream: u16, count: usize) -> Self {
        Self { count, ..Self::new(broker, message, stream) }
    }

    /// Octets that no chunk has yet.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Whether nothing was sent.
    pub(crate) fn is_unsent(&self) -> bool {
        self.count == 0
    }

    /// Appends; waits while too many chunks are on their way.
    pub(crate) async fn write(&mut self, octets: &[u8]) -> Result<(), PublishError> {
        let mut rest = octets;
        while self.pending.len() + rest.len() >= CHUNK {
            let (first, more) = rest.split_at(CHUNK - self.pending.len());
            self.pending.extend_from_slice(first);
            rest = more;
            // What goes on has chunks to come: a buffer that grows leaves all its sizes behind.
            let full = std::mem::replace(&mut self.pending, BytesMut::with_capacity(CHUNK));
            self.send(full.freeze()).await?;
        }
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Sends what is left, and waits until all is stored.
    pub(crate) async fn finish(&mut self) -> Result<Chunks, PublishError> {
        if !self.pending.is_empty() {
            let rest = self.pending.split().freeze();
            self.send(rest).await?;
        }
        while !self.in_flight.is_empty() {
            self.one_stored().await?;
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.written.sort_unstable_by_key(|(number, _)| *number);
        let parts = self.written.iter().map(|(_, chunk)| *chunk).collect();
        Ok(Chunks { stream: self.stream, parts })
    }

    async fn send(&mut self, octets: Bytes) -> Result<(), PublishError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.in_flight.len() >= IN_FLIGHT {
            self.one_stored().await?;
        }
        let number = self.count;
        self.count += 1;
        let (broker, stream, message) = (self.broker.clone(), self.stream, self.message);
        self.in_flight.spawn(async move {
            let id = format!("{message}-c{number}");
            let stored = store(&broker, stream, message, &id, &octets).await;
            let chunk = stored.map(|sequence| Chunk {
                sequence,
                octets: u32::try_from(octets.len()).unwrap_or(u32::MAX),
                checksum: crc32c::crc32c(&octets),
            });
            (number, chunk)
        });
        Ok(())
    }

    async fn one_stored(&mut self) -> Result<(), PublishError> {
        let Some(sent) = self.in_flight.join_next().await else { return Ok(()) };
        let ended = |error: JoinError| PublishError::Refused(error.to_string().into());
        let stored = sent.map_err(ended).and_then(|(number, chunk)| Ok((number, chunk?)));
        self.written.push(stored.inspect_err(|error| self.failure = Some(error.clone()))?);
        Ok(())
    }
}

/// Stores a message in a body stream. What refers to it is not published before it is known to be
/// there.
async fn store(
    broker: &Broker,
    stream: u16,
    message: QueueId,
    id: &str,
    octets: &Bytes,
) -> Result<u64, PublishError> {
    let publish = Publish::new(body_subject(stream), id, octets.clone())
        .header(OF_MESSAGE, &message.to_string());
    match broker.publish_surely(publish).await {
        Err(PublishError::Unknown(error)) => Err(PublishError::Refused(error)),
        stored => stored,
    }
}

/// Copies the inline content of a message to a body stream, and says where all of it is.
pub(crate) async fn settle_down(
    broker: &Broker,
    arrival: &Arrival,
    stream: u16,
) -> Result<ManifestPlace, PublishError> {
    let message = &arrival.message;
    let stream = if arrival.chunks.parts.is_empty() { stream } else { arrival.chunks.stream };
    let mut writer = BodyWriter::more(broker.clone(), message.id, stream, COPIED);
    writer.write(&arrival.inline.octets).await?;
    let mut chunks = writer.finish().await?;
    if !arrival.inline.is_intact {
        // What is damaged must not pass for whole.
        chunks.parts.iter_mut().for_each(|part| part.checksum = !part.checksum);
    }
    chunks.parts.extend(&arrival.chunks.parts);
    let manifest = Manifest { message: Arc::clone(message), chunks };
    let id = format!("{}-m", message.id);
    let sequence = store(broker, stream, message.id, &id, &manifest.encode()).await?;
    Ok(ManifestPlace { stream, sequence })
}

/// Reads a manifest. `None` when the leader says that it is not there.
pub(crate) async fn read_manifest(
    broker: &Broker,
    place: ManifestPlace,
) -> Result<Option<Result<Manifest, Box<str>>>, Cause> {
    let decode = |record: &Bytes| Manifest::decode(record).map_err(|e| e.to_string().into());
    broker.read(&body_stream(place.stream), place.sequence, decode).await
}

/// The inline octets of content of so many octets, if what is inline and the chunks can be it.
pub(crate) fn checked(size: u64, inline: &Section, chunks: &Chunks) -> Result<Bytes, ContentError> {
    let parts: u64 = chunks.parts.iter().map(|part| u64::from(part.octets)).sum();
    let fault = match (inline.is_intact, inline.octets.len() as u64 + parts == size) {
        (true, true) => return Ok(inline.octets.clone()),
        (false, _) => "its content is not what was written",
        (true, false) => "its parts do not add up to its size",
    };
    Err(ContentError::Damaged(fault.into()))
}

/// Content: what is inline and then the chunks, each checked as it is read.
pub(crate) fn content(
    broker: &Broker,
    inline: Bytes,
    chunks: Chunks,
) -> BoxStream<'static, Result<Bytes, ContentError>> {
    let stream_name: Arc<str> = body_stream(chunks.stream).into();
    let broker = broker.clone();
    let inline = stream::iter(pieces(inline).into_iter().map(Ok));
    let rest = stream::iter(chunks.parts).then(move |chunk| {
        let (broker, stream_name) = (broker.clone(), Arc::clone(&stream_name));
        async move { read_chunk(&broker, &stream_name, chunk).await }
    });
    until_error(inline.chain(rest).boxed())
}

/// The octets of content from `at` on, as many as are together; none at its end.
pub(crate) async fn piece(
    broker: &Broker,
    inline: Bytes,
    chunks: &Chunks,
    at: u64,
) -> Result<Bytes, ContentError> {
    let offset = usize::try_from(at).unwrap_or(usize::MAX);
    if offset < inline.len() {
        let mut octets = inline.slice(offset..);
        return Ok(octets.split_to(octets.len().min(CHUNK)));
    }
    let mut before = inline.len() as u64;
    for &chunk in &chunks.parts {
        let end = before + u64::from(chunk.octets);
        if at < end {
            let octets = read_chunk(broker, &body_stream(chunks.stream), chunk).await?;
            return Ok(octets.slice(usize::try_from(at - before).unwrap_or(usize::MAX)..));
        }
        before = end;
    }
    Ok(Bytes::new())
}

/// At most 1 MiB each.
fn pieces(mut octets: Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while !octets.is_empty() {
        pieces.push(octets.split_to(octets.len().min(CHUNK)));
    }
    pieces
}

fn until_error(
    chunks: BoxStream<'static, Result<Bytes, ContentError>>,
) -> BoxStream<'static, Result<Bytes, ContentError>> {
    let ended = false;
    stream::unfold((chunks, ended), |(mut chunks, ended)| async move {
        if ended {
            return None;
        }
        let chunk = chunks.next().await?;
        let ended = chunk.is_err();
        Some((chunk, (chunks, ended)))
    })
    .boxed()
}

async fn read_chunk(broker: &Broker, stream: &str, chunk: Chunk) -> Result<Bytes, ContentError> {
    let damaged = |what: &str| {
        let place = format!("message {} of {stream} {what}", chunk.sequence);
        ContentError::Damaged(place.into())
    };
    let octets = find_chunk(broker, stream, chunk).await?;
    octets.ok_or_else(|| damaged("is missing"))?.map_err(damaged)
}

impl Chunk {
    fn checked(self, octets: &Bytes) -> Result<Bytes, &'static str> {
        let is_whole = octets.len() == self.octets as usize;
        match is_whole && crc32c::crc32c(octets) == self.checksum {
            true => Ok(octets.clone()),
            false => Err("is not what was written"),
        }
    }
}

/// A leader that was just elected may not know yet what it will have applied in a moment.
async fn find_chunk(
    broker: &Broker,
    stream: &str,
    chunk: Chunk,
) -> Result<Option<Result<Bytes, &'static str>>, ContentError> {
    let mut looks = 1;
    loop {
        let read = broker.read(stream, chunk.sequence, |octets| chunk.checked(octets)).await;
        let read = read.map_err(ContentError::Unavailable)?;
        if read.is_some() || looks == LOOKS {
            return Ok(read);
        }
        looks += 1;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Deletes chunks that nothing refers to. What cannot be deleted now is an orphan.
pub(crate) async fn delete(broker: &Broker, chunks: &Chunks) {
    let stream = body_stream(chunks.stream);
    for chunk in &chunks.parts {
        if let Err(error) = broker.delete(&stream, chunk.sequence).await {
            tracing::debug!(%error, "a chunk is left to the collector");
        }
    }
}
