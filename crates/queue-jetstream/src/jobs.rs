//! The records of a partition, read at the start and followed from then on.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::StreamExt;
use queue::JobId;
use queue::contract::Cause;
use tokio::sync::watch;

use crate::end;
use crate::index::Place;
use crate::names::{Partition, job_of};
use crate::record::JobRecord;
use crate::shared::Shared;
use crate::step::{self, WRITER};

/// How long a quiet stream is waited for before it is asked whether there is more.
const QUIET: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(100);

/// Follows a partition's records until the queue is closed; says when all that were there at the
/// start are known.
pub(crate) async fn run(shared: Arc<Shared>, partition: Partition, loaded: watch::Sender<bool>) {
    let mut position = 0;
    let work = async {
        loop {
            if let Err(error) = follow(&shared, partition, &mut position, &loaded).await {
                tracing::debug!(%error, %partition, "the records are read again");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
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
        read(shared, &message, Place::Record(partition, sequence));
        *position = sequence;
        if pending == 0 || sequence >= target {
            let _ = loaded.send(true);
        }
    }
}

/// Takes a record of somebody else's into the schedule; our own we know.
fn read(shared: &Arc<Shared>, message: &Message, place: Place) {
    let writer = message.headers.as_ref().and_then(|headers| headers.get(WRITER));
    if writer.is_some_and(|writer| writer.as_str() == shared.writer) {
        return;
    }
    let Some(job) = job_of(&message.subject) else {
        tracing::error!(subject = %message.subject, "a record that names no job");
        return;
    };
    if step::is_mark(&message.payload) {
        shared.index().schedule.remove(job);
        return;
    }
    match JobRecord::decode(&message.payload) {
        Ok(record) => known(shared, job, &record, place),
        Err(error) => {
            shared.metrics.quarantined.inc();
            tracing::error!(%job, %error, "a record cannot be read: it is left alone");
        }
    }
}

/// A record is stored: the job is in the schedule, and where it says.
pub(crate) fn known(shared: &Arc<Shared>, job: JobId, record: &JobRecord, place: Place) {
    let now = shared.now();
    let mut index = shared.index();
    if index.hand.contains_key(&job.message) {
        // Somebody else made a record of what we have in hand from an intake.
        let (mine, message) = (Arc::clone(shared), job.message);
        shared.tasks.spawn(async move { step::end_arrival(&mine, message).await });
    }
    let Some(placement) = record.state.placement() else {
        index.schedule.remove(job);
        drop(index);
        return end::end(shared, job, place);
    };
    if !index.insert_record(job, record, placement, place, now) {
        index.schedule.replace(job, placement, place, now);
    }
    drop(index);
    shared.changed.notify_waiters();
}
