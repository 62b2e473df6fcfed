//! Content that nothing refers to: drafts that were never committed, copies whose record was never
//! made, what a process had no time to delete.
//!
//! Only the want of a reference makes an orphan, never age alone: a message is alive while an
//! intake holds it or a job has a record. Intakes are asked before records, because mail goes from
//! there to here and its record is made before it ends there; and what is younger than any draft
//! may be is not looked at.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use futures::StreamExt;
use mail_types::QueueId;
use queue::contract::Cause;

use crate::body::OF_MESSAGE;
use crate::names::{Door, Partition, body_stream, job_of, message_of};
use crate::shared::Shared;
use crate::streams::{self, BODY_STREAMS};

/// Between two searches.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);
/// The age at least of what may be an orphan: many times what a client may take for a message.
const AGE: Duration = Duration::from_secs(24 * 3600);

/// Collects again and again, in whichever process owns the first partition of a kind.
pub(crate) async fn run(shared: Arc<Shared>) {
    let age = AGE.max(shared.config.longest_data() * 2);
    let work = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if !shared.owned().contains(&Partition::SPEAKER) {
                continue;
            }
            match collect(&shared, age).await {
                Ok(collected) => tracing::info!(event = "orphans_collected", collected),
                Err(error) => tracing::warn!(%error, "orphans are left for the next time"),
            }
        }
    };
    shared.closed.run_until_cancelled(Box::pin(work)).await;
}

/// Deletes what is older than `age` and has no reference; tells how many messages of the streams
/// that were.
pub(crate) async fn collect(shared: &Shared, age: Duration) -> Result<u64, Cause> {
    let mut found = Vec::new();
    for stream in (0..BODY_STREAMS).map(body_stream) {
        found.extend(old(shared, stream, age).await?);
    }
    let alive = alive(shared).await?;
    let mut collected = 0;
    for old in found.iter().filter(|old| !alive.contains(&old.message)) {
        shared.broker.delete(&old.stream, old.sequence).await?;
        collected += 1;
    }
    Ok(collected)
}

/// A chunk or manifest.
struct Old {
    stream: Arc<str>,
    sequence: u64,
    message: QueueId,
}

/// What a body stream holds of messages older than `age`.
async fn old(shared: &Shared, name: String, age: Duration) -> Result<Vec<Old>, Cause> {
    let stream = shared.broker.context.get_stream(&name).await?;
    let state = &stream.cached_info().state;
    let (held, last) = (state.messages, state.last_sequence);
    let mut found = Vec::new();
    if held == 0 {
        return Ok(found);
    }
    let name: Arc<str> = name.into();
    let config = pull::OrderedConfig { headers_only: true, ..Default::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let (sequence, pending) = {
            let info = message.info()?;
            (info.stream_sequence, info.pending)
        };
        let of = message.headers.as_ref().and_then(|headers| headers.get(OF_MESSAGE));
        // What does not say whose it is may be anybody's.
        if let Some(Ok(message)) = of.map(|of| of.as_str().parse::<QueueId>())
            && shared.now().since(message.arrival()) >= age
        {
            found.push(Old { stream: Arc::clone(&name), sequence, message });
        }
        if pending == 0 || sequence >= last {
            break;
        }
    }
    Ok(found)
}

/// The messages that an intake holds or a job refers to. A job's mark counts until it is gone.
async fn alive(shared: &Shared) -> Result<HashSet<QueueId>, Cause> {
    let mut alive = HashSet::new();
    let doors = [Door::Outside, Door::Reserve];
    for stream in doors.into_iter().flat_map(|door| streams::of(&shared.config, door)) {
        for subject in streams::subjects(shared, &stream).await? {
            alive.extend(message_of(&subject));
        }
    }
    for partition in shared.config.all_partitions() {
        for subject in streams::subjects(shared, &partition.jobs_stream()).await? {
            alive.extend(job_of(&subject).map(|job| job.message));
        }
    }
    Ok(alive)
}
