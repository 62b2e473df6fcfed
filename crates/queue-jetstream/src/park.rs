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
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::act;
use crate::crowd::Flow;
use crate::hand::Way;
use crate::index::Index;
use crate::shared::Shared;

/// Records that are written at once. What is parked waits anyway, and each message of it costs the
/// servers four writes: more at once would hold up the messages of everybody else.
const TOGETHER: usize = 2;
/// The same where servers replicate, of which each write waits for the other ones.
const TOGETHER_REPLICATED: usize = 3;
/// Parked at once, until the servers have confirmed the end in the intake: they have one line for
/// all ends of an intake, and whatever is delivered out of it, or has been, stands in it.
const ENDING_MAX: usize = 8;
/// How often a window is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked whether a message has ended.
const LOOK_ENDED: Duration = Duration::from_millis(5);

/// Parks what is too much, until told to stop.
pub(crate) async fn run(shared: Arc<Shared>, way: Way, stop: CancellationToken) {
    let together = if shared.config.is_replicated() { TOGETHER_REPLICATED } else { TOGETHER };
    let turns = Semaphore::new(together);
    let work = async {
        loop {
            let jobs = overflow(&shared.index(), way, shared.config.window);
            if jobs.is_empty() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let parked = stream::iter(jobs).map(|job| park(&shared, job, &turns));
            parked.buffer_unordered(ENDING_MAX).collect::<Vec<()>>().await;
            shared.changed.notify_waiters();
        }
    };
    shared.closed.run_until_cancelled(stop.run_until_cancelled(work)).await;
}

async fn park(shared: &Arc<Shared>, job: JobId, turns: &Semaphore) {
    let turn = turns.acquire().await;
    let parked = act::park(shared, job).await;
    drop(turn);
    match parked {
        Ok(true) => {
            shared.metrics.parked.inc();
            while shared.index().is_in_intake(job.message) {
                tokio::time::sleep(LOOK_ENDED).await;
            }
        }
        Ok(false) => {}
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
