//! The records of a partition, read at the start and followed from then on.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::StreamExt;
use queue::JobId;
use queue::contract::Cause;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::end;
use crate::index::Place;
use crate::names::{Partition, job_of};
use crate::record::JobRecord;
use crate::shared::Shared;
use crate::step::{self, WRITER};
use crate::unreadable;

/// How long a quiet stream is waited for before it is asked whether there is more.
const QUIET: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(100);

/// Follows a partition's records until told to stop; says when all that were there at the
/// start are known.
pub(crate) async fn run(
    shared: Arc<Shared>,
    partition: Partition,
    loaded: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut position = 0;
    let work = async {
        loop {
            if let Err(error) = follow(&shared, partition, &mut position, &loaded).await {
                tracing::debug!(%error, %partition, "the records are read again");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    // Boxed: a consumer of the client library is large.
    let work = Box::pin(stop.run_until_cancelled(work));
    shared.closed.run_until_cancelled(work).await;
}

async fn follow(
    shared: &Arc<Shared>,
    partition: Partition,
    position: &mut u64,
    loaded: &watch::Sender<bool>,
) -> Result<(), Cause> {
    let stream = shared.broker.context.get_stream(partition.jobs_stream()).await?;
    let state = &stream.cached_info().state;
    let target = state.last_sequence;
    if state.messages == 0 || *position >= target {
        let _ = loaded.send(true);
    }
    let start_sequence = *position + 1;
    let config = pull::OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    loop {
        let message = match tokio::time::timeout(QUIET, messages.next()).await {
            Ok(Some(message)) => message?,
            Ok(None) => return Err("the records ended".into()),
            Err(_) if *loaded.borrow() => continue,
            // What was last may have been deleted since.
            Err(_) => return Err("no record for a second".into()),
        };
        let info = message.info()?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        read(shared, &message, partition, sequence);
        *position = sequence;
        shared.index().passed(partition, sequence);
        if pending == 0 || sequence >= target {
            let _ = loaded.send(true);
        }
    }
}

/// Takes a record into the schedule.
fn read(shared: &Arc<Shared>, message: &Message, partition: Partition, sequence: u64) {
    let Some(job) = job_of(&message.subject) else {
        tracing::error!(subject = %message.subject, "a record that names no job");
        return;
    };
    if step::is_mark(&message.payload) {
        let mut index = shared.index();
        index.mark_seen(job);
        index.schedule.remove(job);
        return;
    }
    if is_known(shared, message, job, sequence) {
        return;
    }
    match JobRecord::decode(&message.payload) {
        Ok(record) => known(shared, job, &record, Place::Record(partition, sequence)),
        Err(error) => {
            let place = Place::Record(partition, sequence);
            unreadable::known(shared, job, &message.subject, place, &error.to_string());
        }
    }
}

/// Whether a record is one of ours that we know already.
fn is_known(shared: &Shared, message: &Message, job: JobId, sequence: u64) -> bool {
    let writer = message.headers.as_ref().and_then(|headers| headers.get(WRITER));
    let is_ours = writer.is_some_and(|writer| writer.as_str() == shared.writer);
    let index = shared.index();
    // What we wrote before the partition was ours we do not know.
    is_ours && (index.schedule.payload(job).is_some() || index.is_past(job, sequence))
}

/// A record is stored: the job is in the schedule, and where it says.
pub(crate) fn known(shared: &Arc<Shared>, job: JobId, record: &JobRecord, place: Place) {
    let now = shared.now();
    let mut index = shared.index();
    if index.hand.get(job.message).is_some() {
        // Somebody else made a record of what we have in hand from an intake.
        let (mine, message) = (Arc::clone(shared), job.message);
        shared.tasks.spawn(async move { step::end_arrival(&mine, message).await });
    }
    let Some(placement) = record.state.placement() else {
        index.schedule.remove(job);
        drop(index);
        return end::end(shared, job, place);
    };
    let is_newer = index.schedule.payload(job).is_none_or(|known| known.is_before(place));
    if is_newer && !index.insert_record(job, record, placement, place, now) {
        index.schedule.replace(job, placement, place, now);
    }
    drop(index);
    shared.changed.notify_waiters();
}
