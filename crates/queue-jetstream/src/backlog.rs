//! What waits in intakes and is not in hand yet, and how large the streams are.
//!
//! Asked of the servers seldom, and only by the owner of a partition: each message is counted once
//! in the cluster, and an idle process asks for nothing. Numbers of a partition that is not ours
//! any more are not shown; those that no server told anew are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mail_types::Timestamp;
use queue::contract::Cause;
use tokio::time::MissedTickBehavior;

use crate::hand::Way;
use crate::index::Index;
use crate::names::{Door, Lane, Partition};
use crate::shared::Shared;
use crate::streams;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// What was seen last.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) lanes: HashMap<Lane, Waiting>,
    /// Octets of all streams, on one server.
    pub(crate) store_bytes: Option<u64>,
}

/// Messages that nobody has in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) messages: u64,
    /// About when the oldest came.
    pub(crate) oldest: Option<Timestamp>,
}

/// Looks until the queue is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            ticks.tick().await;
            if let Err(error) = look(&shared).await {
                tracing::debug!(%error, "what waits in intakes is not known");
            }
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn look(shared: &Shared) -> Result<(), Cause> {
    let ours = shared.owned();
    let mut lanes: Vec<_> = ours.iter().map(|partition| Lane::Partition(*partition)).collect();
    let speaks = ours.contains(&Partition::SPEAKER);
    if speaks {
        lanes.push(Lane::Split);
    }
    let mut seen = Backlog::default();
    for lane in lanes {
        seen.lanes.insert(lane, waiting(shared, lane).await?);
    }
    if speaks {
        seen.store_bytes = Some(streams::size(shared).await?);
    }
    *shared.backlog() = seen;
    Ok(())
}

async fn waiting(shared: &Shared, lane: Lane) -> Result<Waiting, Cause> {
    let mut waiting = Waiting::default();
    for door in [Door::Outside, Door::Reserve] {
        let there = streams::undone(shared, door, lane).await?;
        let messages = there.saturating_sub(shared.index().known(door, lane));
        if messages > 0 && waiting.oldest.is_none() {
            waiting.oldest = streams::oldest(shared, &shared.stream(door, lane)).await?;
        }
        waiting.messages += messages;
    }
    Ok(waiting)
}

impl Index {
    /// Messages of an intake that are in hand, or whose end is on its way.
    fn known(&self, door: Door, lane: Lane) -> u64 {
        let Lane::Partition(partition) = lane else { return 0 };
        let way = Way { partition, door };
        let ending = self.ending.values().filter(|ending| ending.way == way).count();
        (self.hand.filling(way).messages + ending) as u64
    }
}
