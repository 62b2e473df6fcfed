//! A partition that is ours, for as long as its key is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use queue::Phase;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hand::Way;
use crate::index::Place;
use crate::names::{Door, Partition};
use crate::shared::Shared;
use crate::{intake, jobs, park};

/// How often it is looked whether the last lease has ended.
const LOOK: Duration = Duration::from_millis(20);
/// The same for a partition that is another's already.
const LOOK_LOST: Duration = Duration::from_secs(1);

pub(crate) struct Tenure {
    pub(crate) partition: Partition,
    revision: AtomicU64,
    valid_until: Mutex<Instant>,
    lasts: Duration,
    /// Pull no more.
    stop: CancellationToken,
    tasks: TaskTracker,
    loaded: watch::Receiver<bool>,
    ended: CancellationToken,
}

impl Tenure {
    /// Begins to serve a partition whose key was asked for at `sent`.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        partition: Partition,
        sent: Instant,
        revision: u64,
    ) -> Arc<Self> {
        let ttl = shared.config.ownership_ttl();
        // Before the servers end it, whatever their clocks do.
        let lasts = ttl - ttl / 8;
        let (loading, loaded) = watch::channel(false);
        let tenure = Arc::new(Self {
            partition,
            revision: AtomicU64::new(revision),
            valid_until: Mutex::new(sent + lasts),
            lasts,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            loaded,
            ended: CancellationToken::new(),
        });
        shared.tenures().insert(partition, Arc::clone(&tenure));
        let stop = || tenure.stop.clone();
        tenure.tasks.spawn(jobs::run(Arc::clone(shared), partition, loading, stop()));
        for door in [Door::Outside, Door::Reserve] {
            let (way, loaded) = (Way { partition, door }, tenure.loaded.clone());
            tenure.tasks.spawn(intake::run(Arc::clone(shared), way, loaded, stop()));
            tenure.tasks.spawn(park::run(Arc::clone(shared), way, stop()));
        }
        tenure.tasks.close();
        tenure
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(super) fn renewed(&self, sent: Instant, revision: u64) {
        self.revision.store(revision, Ordering::Release);
        *self.until() = sent + self.lasts;
    }

    /// The key is another's.
    pub(super) fn end(&self) {
        *self.until() = Instant::now();
    }

    /// Whether the key is certainly ours.
    pub(crate) fn is_valid(&self) -> bool {
        Instant::now() < *self.until()
    }

    fn until(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.valid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn loaded(&self) -> watch::Receiver<bool> {
        self.loaded.clone()
    }

    /// Whether jobs of the partition may be leased: it is ours, and we mean to keep it.
    pub(crate) fn is_serving(&self) -> bool {
        self.is_valid() && !self.stop.is_cancelled()
    }

    /// Serves it no more: what is leased is void by itself, and forgotten once its holder has
    /// noticed. In hand for ever, it would never be delivered to another.
    pub(super) fn lose(&self, shared: &Arc<Shared>) {
        self.stop.cancel();
        self.end_now(shared);
        let (mine, partition) = (Arc::clone(shared), self.partition);
        let is_ours_again = move || mine.tenures().contains_key(&partition);
        if forget(shared, partition, &is_ours_again) == 0 {
            return;
        }
        let mine = Arc::clone(shared);
        let work = async move {
            while forget(&mine, partition, &is_ours_again) > 0 {
                tokio::time::sleep(LOOK_LOST).await;
            }
        };
        let closed = shared.closed.clone();
        shared.tasks.spawn(async move { closed.run_until_cancelled(work).await });
    }

    fn end_now(&self, shared: &Shared) {
        shared.tenures().remove(&self.partition);
        self.ended.cancel();
    }

    /// Pulls and leases no more, and says when the last lease has ended: until then it is ours.
    pub(super) fn give_back(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        released: mpsc::Sender<Partition>,
    ) {
        if self.stop.is_cancelled() {
            return;
        }
        self.stop.cancel();
        let (tenure, mine) = (Arc::clone(self), Arc::clone(shared));
        shared.tasks.spawn(async move {
            tenure.tasks.wait().await;
            while forget(&mine, tenure.partition, &|| tenure.ended.is_cancelled()) > 0 {
                tokio::time::sleep(LOOK).await;
            }
            if tenure.ended.is_cancelled() {
                // It was lost meanwhile, and may be ours or another's again.
                return;
            }
            tenure.end_now(&mine);
            // Who waited for it may be gone.
            let _ = released.send(tenure.partition).await;
        });
    }

    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Takes the jobs of a partition out of the schedule, and gives back what is in hand, unless these
/// are others by now. Returns how many are leased still.
fn forget(shared: &Arc<Shared>, partition: Partition, unless: &dyn Fn() -> bool) -> usize {
    const PAGE: usize = 1024;
    let (mut leased, mut given_back) = (0, Vec::new());
    let mut from = None;
    let mut index = shared.index();
    if unless() {
        return 0;
    }
    loop {
        let page = index.schedule.page(from, PAGE);
        for job in page.jobs {
            let is_here = match job.payload {
                Place::Record(of, _) => of == partition,
                Place::Intake => {
                    let in_hand = index.hand.get(job.id.message);
                    in_hand.is_some_and(|in_hand| in_hand.way.partition == partition)
                }
            };
            if !is_here {
                continue;
            }
            if job.phase == Phase::Active {
                leased += 1;
                continue;
            }
            index.schedule.remove(job.id);
            index.absent.remove(&job.id);
            if let Some(in_hand) = index.let_go(job.id.message) {
                given_back.push(in_hand.reply);
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    index.forget_marks(partition);
    drop(index);
    let broker = shared.broker.clone();
    shared.tasks.spawn(async move {
        for reply in given_back {
            // It comes again by itself if nobody hears this.
            let _ = broker.client.publish(reply, "-NAK".into()).await;
        }
    });
    leased
}
