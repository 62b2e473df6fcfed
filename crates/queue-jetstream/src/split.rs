//! A message for several next hops becomes that many jobs, by repeatable steps.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use queue::JobId;
use queue::contract::Cause;
use queue::stored::StoredState;
use tokio::time::Instant;

use crate::intake::end_again;
use crate::jobs;
use crate::names::{self, Door, Lane};
use crate::pull::Pull;
use crate::record::{Arrival, JobHead, JobRecord};
use crate::shared::Shared;
use crate::step::{self, Stepped};
use crate::streams::BODY_STREAMS;
use crate::{body, unreadable};

/// Messages of a pull at most: who splits holds nothing else of them.
const PULL_MAX: usize = 16;
/// Octets of these.
const PULL_BYTES: usize = 8 << 20;
const RETRY: Duration = Duration::from_millis(100);

/// Splits what comes in by a door, until the queue is closed. Anybody may, and all do.
pub(crate) async fn run(shared: Arc<Shared>, door: Door) {
    let work = async {
        loop {
            if let Err(error) = pull(&shared, door).await {
                tracing::debug!(%error, "a message was not split yet");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn pull(shared: &Arc<Shared>, door: Door) -> Result<(), Cause> {
    let mut pull = Pull::new(shared, door, Lane::Split).await?;
    loop {
        if !pull.is_open() {
            pull.ask(PULL_MAX, PULL_BYTES, false).await?;
        }
        if let Some(message) = pull.next(Instant::now()).await? {
            split(shared, &message).await?;
        }
    }
}

async fn split(shared: &Arc<Shared>, message: &Message) -> Result<(), Cause> {
    let arrival = match Arrival::decode(&message.payload) {
        Ok(arrival) => arrival,
        Err(error) => return unreadable::received(shared, message, &error).await,
    };
    let stored = &arrival.message;
    let stream = names::body_of(stored.id, BODY_STREAMS);
    let manifest = body::settle_down(&shared.broker, &arrival, stream).await?;
    for (index, job) in (0u16..).zip(&stored.jobs) {
        let id = JobId { message: stored.id, index };
        let head = JobHead {
            tenant: stored.envelope.tenant.clone(),
            next_hop: job.next_hop.clone(),
            size: stored.size(),
            manifest,
        };
        let record = JobRecord { head, state: StoredState::fresh(&stored.envelope) };
        let name = format!("{id}-split");
        let stepped = step::put(shared, id, &record.head, Some(&record), 0, &name).await?;
        // Whoever serves the next hop reads it; if we do, we know it now.
        if let Stepped::At(place) = stepped
            && shared.serves(&job.next_hop)
        {
            jobs::known(shared, id, &record, place);
        }
    }
    if let Some(reply) = &message.reply {
        // Not waited for: it leaves with others, and this is the only one that is split here.
        end_again(shared, reply.clone());
    }
    Ok(())
}
