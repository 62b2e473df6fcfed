//! Jobs and content, read back.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use queue::contract::Cause;
use queue::stored::{StoredMessage, StoredState};
use queue::{Content, ContentError, JobId, Phase, QueueError};

use crate::body;
use crate::frame::Section;
use crate::index::Place;
use crate::names::{Partition, job_subject};
use crate::record::{Arrival, Chunks, JobRecord, Manifest};
use crate::shared::Shared;
use crate::step;

/// Why a job cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// For good.
    #[error("{0}")]
    Damaged(Box<str>),
    /// The leader says that it is not there. One that was just elected may not know yet what it
    /// will have applied in a moment: only what stays absent is lost.
    #[error("{0}")]
    Absent(&'static str),
    #[error("no server answers")]
    Unavailable(#[source] Cause),
}

impl ReadError {
    /// Whether trying again does not help: what is damaged, or absent for so long that it is taken
    /// for lost.
    pub(crate) fn is_final(&self, phase: Phase) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Absent(_) => phase == Phase::Quarantined,
            Self::Unavailable(_) => false,
        }
    }
}

impl From<ReadError> for QueueError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Where the content of a message is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Arrival(Arc<Arrival>),
    Manifest(Arc<Manifest>),
}

impl Source {
    pub(crate) fn message(&self) -> &Arc<StoredMessage> {
        match self {
            Self::Arrival(arrival) => &arrival.message,
            Self::Manifest(manifest) => &manifest.message,
        }
    }

    /// Whether some of the content is elsewhere than in the record.
    pub(crate) fn has_chunks(&self) -> bool {
        match self {
            Self::Arrival(arrival) => !arrival.chunks.parts.is_empty(),
            Self::Manifest(manifest) => !manifest.chunks.parts.is_empty(),
        }
    }

    /// What is inline, and what comes after it, if together they can be the content.
    fn parts(&self) -> Result<(Bytes, &Chunks), ContentError> {
        let (inline, chunks) = match self {
            Self::Arrival(arrival) => (&arrival.inline, &arrival.chunks),
            Self::Manifest(manifest) => (&Section::NONE, &manifest.chunks),
        };
        Ok((body::checked(self.message().size(), inline, chunks)?, chunks))
    }

    pub(crate) fn content(&self, shared: &Shared) -> Content {
        let chunks = match self.parts() {
            Ok((inline, chunks)) => body::content(&shared.broker, inline, chunks.clone()),
            Err(damaged) => stream::once(async { Err(damaged) }).boxed(),
        };
        Content { size: self.message().size(), chunks }
    }

    /// The octets from `at` on, as many as are together; none at the end.
    pub(crate) async fn piece(&self, shared: &Shared, at: u64) -> Result<Bytes, ContentError> {
        let (inline, chunks) = self.parts()?;
        body::piece(&shared.broker, inline, chunks, at).await
    }
}

/// A job as it was stored.
#[derive(Clone, Debug)]
pub(crate) struct ReadJob {
    pub(crate) source: Source,
    pub(crate) state: StoredState,
    pub(crate) place: Place,
    /// Unless it is in an intake.
    pub(crate) record: Option<JobRecord>,
}

/// Reads what is known of a job; `None` when it is no more.
pub(crate) async fn read_job(shared: &Shared, job: JobId) -> Result<Option<ReadJob>, ReadError> {
    let mut seen = None;
    loop {
        let (place, in_hand) = {
            let index = shared.index();
            let Some(&place) = index.schedule.payload(job) else { return Ok(None) };
            (place, index.hand.get(job.message).map(|hand| Arc::clone(&hand.arrival)))
        };
        let (partition, sequence) = match (place, in_hand) {
            (Place::Intake, Some(arrival)) => {
                let state = StoredState::fresh(&arrival.message.envelope);
                let source = Source::Arrival(arrival);
                return Ok(Some(ReadJob { source, state, place, record: None }));
            }
            // Somebody else made a record of it, or its mark.
            (Place::Intake, None) => match has_news(shared, job, place).await? {
                true => continue,
                false => return Ok(None),
            },
            (Place::Record(partition, sequence), _) => (partition, sequence),
        };
        if let Some(read) = read_record(shared, partition, sequence).await? {
            return Ok(Some(read));
        }
        // It may have moved on while it was looked for.
        if seen.replace(sequence) == Some(sequence) && !has_news(shared, job, place).await? {
            return Ok(None);
        }
    }
}

/// Looks for what took the place of a record without our having heard of it, and says whether
/// there is another. A job whose mark is there has ended.
async fn has_news(shared: &Shared, job: JobId, place: Place) -> Result<bool, ReadError> {
    let Some(view) = shared.index().schedule.get(job) else { return Ok(false) };
    let partition = match place {
        Place::Record(partition, _) => partition,
        Place::Intake => shared.partition(&view.next_hop),
    };
    let subject = job_subject(partition, &view.tenant, &view.next_hop, job);
    let last = shared.broker.last(&partition.jobs_stream(), &subject).await;
    let last = match (last.map_err(ReadError::Unavailable)?, place) {
        (Some(last), _) => last,
        (None, Place::Intake) => return Ok(false),
        (None, Place::Record(..)) => return Err(ReadError::Absent("its record is missing")),
    };
    let mut index = shared.index();
    let there = Place::Record(partition, last.sequence);
    let is_mark = step::is_mark(&last.payload);
    if index.schedule.payload(job) == Some(&place) {
        if is_mark {
            index.schedule.remove(job);
        } else {
            index.schedule.set_payload(job, there);
        }
    }
    Ok(!is_mark)
}

async fn read_record(
    shared: &Shared,
    partition: Partition,
    sequence: u64,
) -> Result<Option<ReadJob>, ReadError> {
    let stream = partition.jobs_stream();
    let read = shared.broker.read(&stream, sequence, JobRecord::decode).await;
    let Some(record) = read.map_err(ReadError::Unavailable)? else { return Ok(None) };
    let damaged = |error: &dyn std::fmt::Display| ReadError::Damaged(error.to_string().into());
    let record = record.map_err(|error| damaged(&error))?;
    let manifest = body::read_manifest(&shared.broker, record.head.manifest).await;
    let manifest = match manifest.map_err(ReadError::Unavailable)? {
        Some(Ok(manifest)) => manifest,
        Some(Err(error)) => return Err(damaged(&error)),
        None => return Err(ReadError::Absent("the record of its message is missing")),
    };
    Ok(Some(ReadJob {
        source: Source::Manifest(Arc::new(manifest)),
        state: record.state.clone(),
        place: Place::Record(partition, sequence),
        record: Some(record),
    }))
}

/// Where the content of a job is stored now: it may have moved since the job was leased.
pub(crate) async fn source(shared: &Shared, job: JobId) -> Result<Source, ContentError> {
    match read_job(shared, job).await {
        Ok(Some(read)) => Ok(read.source),
        Ok(None) => Err(ContentError::Unavailable("the job is no more".into())),
        Err(ReadError::Damaged(what)) => Err(ContentError::Damaged(what)),
        Err(ReadError::Absent(what)) => Err(ContentError::Unavailable(what.into())),
        Err(ReadError::Unavailable(error)) => Err(ContentError::Unavailable(error)),
    }
}
