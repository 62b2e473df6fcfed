//! No mail fills an intake's window for long: when it is nearly full, those who have most in it, by
//! tenant and next hop, give way. What goes gets records of its own, and waits there for its turn
//! as deferred mail does.

use std::collections::HashMap;
use std::pin::pin;
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
            let ended = |job: JobId| ended(&shared, job.message);
            in_turns(jobs, &turns, |job| park(&shared, job), ended).await;
            shared.changed.notify_waiters();
        }
    };
    shared.closed.run_until_cancelled(stop.run_until_cancelled(work)).await;
}

/// Parks jobs, as many at once as there are turns, and waits until those that were parked have
/// `ended`, [`ENDING_MAX`] in all.
async fn in_turns<P: Future<Output = bool>, E: Future<Output = ()>>(
    jobs: Vec<JobId>,
    turns: &Semaphore,
    park: impl Fn(JobId) -> P,
    ended: impl Fn(JobId) -> E,
) {
    let (park, ended) = (&park, &ended);
    let parked = stream::iter(jobs).map(|job| async move {
        let turn = turns.acquire().await;
        let is_parked = park(job).await;
        drop(turn);
        if is_parked {
            ended(job).await;
        }
    });
    parked.buffer_unordered(ENDING_MAX).collect::<Vec<()>>().await;
}

/// Whether it was.
async fn park(shared: &Arc<Shared>, job: JobId) -> bool {
    let parked = act::park(shared, job).await;
    let parked = parked.inspect_err(|error| tracing::debug!(%job, %error, "not parked"));
    let is_parked = parked.unwrap_or(false);
    shared.metrics.parked.inc_by(u64::from(is_parked));
    is_parked
}

/// Waits until a message is not in its intake any more, as far as we know.
async fn ended(shared: &Shared, message: QueueId) {
    let left = Arc::clone(&shared.index().left);
    loop {
        let mut left = pin!(left.notified());
        left.as_mut().enable();
        if !shared.index().is_in_intake(message) {
            return;
        }
        left.await;
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use mail_types::Timestamp;

    use super::*;

    /// How many there are at once, and were at most.
    #[derive(Default)]
    struct Gauge {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Gauge {
        async fn during(&self, time: Duration) {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(time).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_parked_at_once_and_not_many_more_end() {
        let (parking, ending) = (Gauge::default(), Gauge::default());
        let message = |n| QueueId::new(Timestamp::from_unix_ms(1_795_388_895_042), n);
        let jobs = (0..50).map(|n| JobId { message: message(n), index: 0 }).collect();
        let park = |job: JobId| {
            let parking = parking.during(Duration::from_secs(1));
            // The last is somebody else's by then.
            parking.map(move |()| job.message != message(49))
        };
        let ended = |_| ending.during(Duration::from_secs(60));
        let began = tokio::time::Instant::now();
        in_turns(jobs, &Semaphore::new(TOGETHER), park, ended).await;
        assert_eq!(parking.most.load(Ordering::SeqCst), TOGETHER);
        assert_eq!(ending.most.load(Ordering::SeqCst), ENDING_MAX);
        let rounds = 49 / ENDING_MAX as u64;
        assert!(began.elapsed() >= Duration::from_secs(60 * rounds), "{:?}", began.elapsed());
    }

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
