//! Mail of one tenant for one next hop does not fill an intake's window: beyond its share it is
//! given records of its own, and waits there for its turn as deferred mail does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use mail_types::{QueueId, TenantId};
use queue::{JobId, NextHop};
use tokio_util::sync::CancellationToken;

use crate::act;
use crate::index::{Index, Way};
use crate::shared::Shared;

/// Messages of a tenant for a next hop that may wait in an intake.
const SHARE: usize = 200;
/// Parked at once.
const TOGETHER: usize = 32;
/// How often a window is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Parks what is too much, until told to stop.
pub(crate) async fn run(shared: Arc<Shared>, way: Way, stop: CancellationToken) {
    let work = async {
        loop {
            let jobs = overflow(&shared.index(), way, shared.config.window / 2);
            if jobs.is_empty() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let parked = stream::iter(jobs).map(|job| park(&shared, job));
            parked.buffer_unordered(TOGETHER).collect::<Vec<()>>().await;
            shared.changed.notify_waiters();
        }
    };
    shared.closed.run_until_cancelled(stop.run_until_cancelled(work)).await;
}

async fn park(shared: &Arc<Shared>, job: JobId) {
    match act::park(shared, job).await {
        Ok(()) => drop(shared.metrics.parked.inc()),
        Err(error) => tracing::debug!(%job, %error, "not parked"),
    }
}

/// What is beyond its share while more than `room` messages are in hand: the newest.
fn overflow(index: &Index, way: Way, room: usize) -> Vec<JobId> {
    if index.in_hand(way) <= room {
        return Vec::new();
    }
    let mut shares: HashMap<(&TenantId, &NextHop), Vec<QueueId>> = HashMap::new();
    for in_hand in index.hand.values().filter(|in_hand| in_hand.way == way) {
        let message = &in_hand.arrival.message;
        let Some(job) = message.jobs.first() else { continue };
        shares.entry((&message.envelope.tenant, &job.next_hop)).or_default().push(message.id);
    }
    let mut beyond = Vec::new();
    for mut messages in shares.into_values().filter(|messages| messages.len() > SHARE) {
        messages.sort_unstable();
        beyond.extend(messages.drain(SHARE..).map(|message| JobId { message, index: 0 }));
    }
    beyond
}
