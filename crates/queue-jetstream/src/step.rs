//! A step in the life of a job, made durable.
//!
//! ```text
//!            done                       goes on
//! intake     ack                        content to a body stream, record if there is none, ack
//! record     mark of its end by CAS     record by CAS
//! ```
//!
//! Whoever takes a step has the job's [`crate::shared::Turn`]; between processes the
//! compare-and-set decides.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderValue;
use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;
use mail_types::QueueId;
use queue::JobId;
use queue::contract::Cause;
use queue::stored::StoredState;
use tokio::time::Instant;

use crate::body;
use crate::broker::{self, Publish, PublishError};
use crate::hand::InHand;
use crate::index::Place;
use crate::intake;
use crate::names::{self, body_stream, job_subject};
use crate::read::{ReadJob, Source};
use crate::record::{JobHead, JobRecord, Manifest, ManifestPlace};
use crate::shared::Shared;
use crate::streams::BODY_STREAMS;

/// Names the process that wrote a record.
pub(crate) const WRITER: &str = "Postrider-Writer";
/// How long the mark of a job that has ended is kept: longer than a message may be under way to
/// whoever would begin the job again.
const MARK: Duration = Duration::from_secs(24 * 3600);
/// Between the first two looks whether a message is gone whose end was heard; each time twice as
/// long.
const GONE_LOOK: Duration = Duration::from_millis(100);
/// After such a pause content is left to the collector of orphans.
const GONE_MAX: Duration = Duration::from_secs(300);
/// Between two looks whether a job that has ended is out of the schedule.
const LEFT_LOOK: Duration = Duration::from_millis(5);
/// How long that may take, before the servers are asked all the same.
const LEFT_MAX: Duration = Duration::from_secs(10);
/// Between two tries to tell the end of a message.
const ACK_RETRY: Duration = Duration::from_millis(250);

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stepped {
    At(Place),
    Gone,
    /// Nothing was written: the job has another record by now, one of ours.
    Changed,
    /// Nothing was written: somebody else has the job.
    Lost,
}

/// Makes `next` what is stored of a job; `None` ends it. `id` names the step: taken again under
/// it, it is taken once.
pub(crate) async fn step(
    shared: &Arc<Shared>,
    job: JobId,
    read: &ReadJob,
    next: Option<&StoredState>,
    id: &str,
) -> Result<Stepped, PublishError> {
    if shared.index().schedule.payload(job) != Some(&read.place) {
        return Ok(Stepped::Changed);
    }
    match (read.place, next) {
        (Place::Intake, None) => {
            end_arrival(shared, job.message).await;
            Ok(Stepped::Gone)
        }
        (Place::Intake, Some(state)) => move_out(shared, job, read, state, id).await,
        (Place::Record(_, sequence), next) => {
            let Some(JobRecord { head, .. }) = &read.record else { return Ok(Stepped::Changed) };
            let record = next.map(|state| JobRecord { head: head.clone(), state: state.clone() });
            let stepped = put(shared, job, head, record.as_ref(), sequence, id).await?;
            if stepped == Stepped::Gone {
                forget_content(shared, job, read);
            }
            Ok(stepped)
        }
    }
}

/// The message has ended in its intake; waits until a server has said so.
pub(crate) async fn end_arrival(shared: &Arc<Shared>, message: QueueId) {
    let Some(ended) = shared.index().end(message) else { return };
    if shared.closed.run_until_cancelled(acknowledge(shared, message)).await.is_none() {
        return;
    }
    if ended.copied.is_some() || ended.arrival.chunks.parts.is_empty() {
        return shared.index().forget_end(message);
    }
    let mine = Arc::clone(shared);
    shared.tasks.spawn(async move { forget_arrival(&mine, &ended).await });
}

/// Deletes the content of a message once it is gone from its intake. A server says that it has
/// heard of an end before the others have, and that may be lost with it: the message comes again
/// then, perhaps to somebody who delivers it twice, and its content has to be there.
async fn forget_arrival(shared: &Shared, ended: &InHand) {
    let id = ended.arrival.message.id;
    let is_gone = shared.closed.run_until_cancelled(until_gone(shared, ended)).await;
    shared.index().forget_end(id);
    match is_gone {
        Some(true) => body::delete(&shared.broker, &ended.arrival.chunks).await,
        Some(false) | None => tracing::debug!(%id, "its content is left to the collector"),
    }
}

/// Whether the end of a message is known to all that matter; told again until it is, or not for
/// minutes.
async fn until_gone(shared: &Shared, ended: &InHand) -> bool {
    let mut pause = GONE_LOOK;
    while pause < GONE_MAX {
        match intake::is_there(shared, ended.way, &ended.subject).await {
            Ok(false) => return true,
            Ok(true) => {}
            Err(error) => tracing::debug!(%error, "not known whether a message is gone"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        acknowledge(shared, ended.arrival.message.id).await;
    }
    false
}

/// Tells the end of a message until a server has heard it: to whoever delivered it last.
async fn acknowledge(shared: &Shared, message: QueueId) {
    loop {
        let Some(reply) = shared.index().reply(message) else { return };
        match shared.broker.ack(&reply).await {
            Ok(()) => return shared.index().heard(message, &reply),
            Err(error) => tracing::debug!(%error, "an acknowledgement is repeated"),
        }
        tokio::time::sleep(ACK_RETRY).await;
    }
}

/// From the intake to a record of its own.
async fn move_out(
    shared: &Arc<Shared>,
    job: JobId,
    read: &ReadJob,
    state: &StoredState,
    id: &str,
) -> Result<Stepped, PublishError> {
    let Source::Arrival(arrival) = &read.source else { return Ok(Stepped::Changed) };
    let Some(new) = arrival.message.jobs.first() else { return Ok(Stepped::Lost) };
    let copied = shared.index().hand.get(job.message).and_then(|in_hand| in_hand.copied);
    let manifest = match copied {
        Some(manifest) => manifest,
        None => {
            let stream = names::body_of(job.message, BODY_STREAMS);
            let manifest = body::settle_down(&shared.broker, arrival, stream).await?;
            shared.index().hand.copied(job.message, manifest);
            shared.metrics.moved.inc();
            manifest
        }
    };
    let head = JobHead {
        tenant: arrival.message.envelope.tenant.clone(),
        next_hop: new.next_hop.clone(),
        size: arrival.message.size(),
        manifest,
    };
    let record = JobRecord { head, state: state.clone() };
    let stepped = put(shared, job, &record.head, Some(&record), 0, id).await?;
    if let Stepped::At(_) | Stepped::Lost = stepped {
        // The record speaks for it now; until the end in the intake is known, it may come again.
        let mine = Arc::clone(shared);
        shared.tasks.spawn(async move { end_arrival(&mine, job.message).await });
    }
    Ok(stepped)
}

/// Replaces the record `expected` of a job, or makes its first; `None` marks its end.
pub(crate) async fn put(
    shared: &Shared,
    job: JobId,
    head: &JobHead,
    record: Option<&JobRecord>,
    expected: u64,
    id: &str,
) -> Result<Stepped, PublishError> {
    let partition = shared.partition(&head.next_hop);
    let subject = job_subject(partition, &head.tenant, &head.next_hop, job);
    let payload = record.map(JobRecord::encode).unwrap_or_default();
    let mut publish = Publish::new(subject.clone(), id, payload)
        .header(WRITER, &shared.writer)
        .grouped(partition.jobs_stream())
        .expecting(expected);
    if record.is_none() {
        publish = publish.header(broker::TTL, &format!("{}s", MARK.as_secs()));
    }
    match shared.broker.publish_surely(publish).await {
        Ok(mark) if record.is_none() => {
            shared.index().ended(job, partition, mark);
            Ok(Stepped::Gone)
        }
        Ok(sequence) => Ok(Stepped::At(Place::Record(partition, sequence))),
        Err(PublishError::Changed) => {
            let unknown = |error: Cause| PublishError::Unknown(error.to_string().into());
            let stream = partition.jobs_stream();
            let last = shared.broker.last(&stream, &subject).await.map_err(unknown)?;
            let Some(last) = last else { return Ok(Stepped::Lost) };
            let there = Place::Record(partition, last.sequence);
            Ok(found(shared, job, &last, there, id))
        }
        Err(error) => Err(error),
    }
}

/// What the record says that was found instead of the one expected.
fn found(shared: &Shared, job: JobId, last: &StreamMessage, there: Place, id: &str) -> Stepped {
    let header = |name: &str| last.headers.get(name).map(HeaderValue::as_str);
    match (header(broker::MESSAGE_ID) == Some(id), is_mark(&last.payload)) {
        (true, true) => Stepped::Gone,
        (true, false) => Stepped::At(there),
        (false, is_mark) => {
            if !is_mark {
                shared.index().schedule.set_payload(job, there);
            }
            match !is_mark && header(WRITER) == Some(&shared.writer) {
                true => Stepped::Changed,
                false => Stepped::Lost,
            }
        }
    }
}

/// Deletes the content of a job that has ended, unless other jobs of its message have not.
fn forget_content(shared: &Arc<Shared>, job: JobId, read: &ReadJob) {
    let (Source::Manifest(manifest), Some(record)) = (&read.source, &read.record) else { return };
    let tasks = shared.tasks.clone();
    let (shared, manifest, place) =
        (Arc::clone(shared), Arc::clone(manifest), record.head.manifest);
    tasks.spawn(async move {
        until_left(&shared, job).await;
        if has_others(&shared, job) {
            // The last of ours looks: of a thousand, one asks the servers for all others.
            return;
        }
        match is_needed(&shared, job, &manifest).await {
            Ok(true) => {}
            Ok(false) => delete_content(&shared, &manifest, place).await,
            Err(error) => tracing::debug!(%job, %error, "content is left to the collector"),
        }
    });
}

/// Whether other jobs of the message are ours, to be ended by us.
fn has_others(shared: &Shared, ended: JobId) -> bool {
    let index = shared.index();
    index
        .schedule
        .any_of_message(ended.message, |view| view.id != ended && shared.holds(&view.next_hop))
}

/// Waits until a job that has ended is out of the schedule: of two that end at once, one has to see
/// that the other is gone. It is out a moment after its end is stored.
async fn until_left(shared: &Shared, job: JobId) {
    let deadline = Instant::now() + LEFT_MAX;
    while shared.index().schedule.payload(job).is_some() && Instant::now() < deadline {
        tokio::time::sleep(LEFT_LOOK).await;
    }
}

async fn is_needed(shared: &Shared, ended: JobId, manifest: &Manifest) -> Result<bool, Cause> {
    let message = &manifest.message;
    let others = (0u16..).zip(&message.jobs).filter(|(index, _)| *index != ended.index);
    // Most often they end in this order: the next one is likely to be there, and the first ones are
    // not. A message may have a thousand.
    let (before, after): (Vec<_>, Vec<_>) = others.partition(|(index, _)| *index < ended.index);
    for (index, job) in after.into_iter().chain(before) {
        let partition = shared.partition(&job.next_hop);
        let id = JobId { message: message.id, index };
        let subject = job_subject(partition, &message.envelope.tenant, &job.next_hop, id);
        let last = shared.broker.last(&partition.jobs_stream(), &subject).await?;
        // One that is not split off yet has no record: its content is needed too.
        if last.is_none_or(|last| !last.payload.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn delete_content(shared: &Shared, manifest: &Manifest, place: ManifestPlace) {
    body::delete(&shared.broker, &manifest.chunks).await;
    let deleted = shared.broker.delete(&body_stream(place.stream), place.sequence).await;
    if let Err(error) = deleted {
        tracing::debug!(%error, "a manifest is left to the collector");
    }
}

/// The mark of a job that has ended.
pub(crate) fn is_mark(payload: &Bytes) -> bool {
    payload.is_empty()
}
