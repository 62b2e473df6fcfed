//! No mail fills an intake's window for long: when it is nearly full, those who have most in it, by
//! tenant and next hop, give way. What goes gets records of its own, and waits there for its turn
//! as deferred mail does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use mail_types::{QueueId, TenantId};
use queue::{JobId, NextHop, Phase};
use tokio_util::sync::CancellationToken;

use crate::act;
use crate::crowd::Flow;
use crate::hand::Way;
use crate::index::Index;
use crate::shared::Shared;

/// Parked at once.
const TOGETHER: usize = 32;
/// Parked before it is looked whether the servers have kept up.
const BATCH: usize = 128;
/// Messages whose end in an intake the servers have not confirmed yet, beyond which none is parked:
/// a server has one line for all ends of an intake, and who has delivered a message stands in it.
const ENDING_MAX: usize = 128;
/// How often a window is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often that is looked at.
const CATCH_UP: Duration = Duration::from_millis(5);

/// Parks what is too much, until told to stop.
pub(crate) async fn run(shared: Arc<Shared>, way: Way, stop: CancellationToken) {
    let work = async {
        loop {
            let jobs = overflow(&shared.index(), way, shared.config.window);
            if jobs.is_empty() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            for jobs in jobs.chunks(BATCH) {
                caught_up(&shared).await;
                let parked = stream::iter(jobs.to_vec()).map(|job| park(&shared, job));
                parked.buffer_unordered(TOGETHER).collect::<Vec<()>>().await;
            }
            shared.changed.notify_waiters();
        }
    };
    shared.closed.run_until_cancelled(stop.run_until_cancelled(work)).await;
}

/// Waits while many ends are on their way.
async fn caught_up(shared: &Shared) {
    while shared.index().ending.len() > ENDING_MAX {
        tokio::time::sleep(CATCH_UP).await;
    }
}

async fn park(shared: &Arc<Shared>, job: JobId) {
    match act::park(shared, job).await {
        Ok(()) => drop(shared.metrics.parked.inc()),
        Err(error) => tracing::debug!(%job, %error, "not parked"),
    }
}

/// While a window is nearly full: what must go so that half of it is free, the newest of those who
/// have most. What is leased stays.
fn overflow(index: &Index, way: Way, window: usize) -> Vec<JobId> {
    let in_hand = index.hand.filling(way).messages;
    if in_hand < begins(window) {
        return Vec::new();
    }
    let mut shares: Vec<_> = shares(index, way).into_values().collect();
    let counts: Vec<usize> = shares.iter().map(Vec::len).collect();
    let leased = in_hand - counts.iter().sum::<usize>();
    let keep = level(&counts, (window / 2).saturating_sub(leased));
    let mut beyond = Vec::new();
    for messages in shares.iter_mut().filter(|messages| messages.len() > keep) {
        messages.sort_unstable();
        beyond.extend(messages.drain(keep..).map(|message| JobId { message, index: 0 }));
    }
    beyond
}

/// How many in hand are too many: a quarter of the window is for others.
pub(crate) fn begins(window: usize) -> usize {
    window - window / 4
}

/// Those who have so much in hand that they would give way, who have most first.
pub(crate) fn crowd(index: &Index, way: Way, window: usize) -> Vec<Flow> {
    let mut shares: Vec<_> = shares(index, way).into_iter().collect();
    shares.sort_unstable_by_key(|(_, messages)| std::cmp::Reverse(messages.len()));
    let counts: Vec<usize> = shares.iter().map(|(_, messages)| messages.len()).collect();
    let keep = level(&counts, window / 2);
    let crowd = shares.into_iter().filter(|(_, messages)| messages.len() >= keep);
    crowd.map(|((tenant, hop), _)| (tenant.clone(), hop.clone())).collect()
}

/// What waits in hand, by tenant and next hop.
fn shares(index: &Index, way: Way) -> HashMap<(&TenantId, &NextHop), Vec<QueueId>> {
    let mut shares: HashMap<(&TenantId, &NextHop), Vec<QueueId>> = HashMap::new();
    for in_hand in index.hand.messages().filter(|in_hand| in_hand.way == way) {
        let message = &in_hand.arrival.message;
        let id = JobId { message: message.id, index: 0 };
        let is_leased = index.schedule.get(id).is_none_or(|view| view.phase == Phase::Active);
        if let (Some(job), false) = (message.jobs.first(), is_leased) {
            shares.entry((&message.envelope.tenant, &job.next_hop)).or_default().push(message.id);
        }
    }
    shares
}

/// The most that each may keep so that all together keep no more than `room`; one is everybody's.
fn level(shares: &[usize], room: usize) -> usize {
    let kept = |level: usize| shares.iter().map(|share| level.min(*share)).sum::<usize>();
    let (mut least, mut most) = (1, room.max(1));
    while least < most {
        let middle = (least + most).div_ceil(2);
        if kept(middle) <= room { least = middle } else { most = middle - 1 }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_have_most_give_way() {
        for (shares, room, want) in [
            (vec![200, 200, 3], 200, 98),
            (vec![1000], 200, 200),
            (vec![5, 5], 200, 200),
            (vec![1, 1, 1], 2, 1),
            (vec![100], 0, 1),
        ] {
            assert_eq!(level(&shares, room), want);
        }
    }
}
