//! What this process knows of its partitions' jobs.

use std::sync::Arc;

use futures::stream;
use futures::{StreamExt, TryStreamExt};
use queue::schedule::View;
use queue::{Acted, Action, Filter, Job, JobId, QueueError, Stats};
use serde::{Deserialize, Serialize};

use crate::index::Place;
use crate::names::Partition;
use crate::piece::Piece;
use crate::read::{self, ReadError};
use crate::shared::Shared;
use crate::{act, end, unreadable};

/// Jobs that are looked at together, and about half of what an answer has at most.
const PAGE: usize = 64;
/// Looks at jobs for one answer, however few of them match.
const SELECTIONS: usize = 16;
/// Reads under way at once.
const READS: usize = 16;
/// Actions under way at once.
const ACTIONS: usize = 16;

/// Part of an answer, and where the next begins.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<JobId>,
}

/// The jobs of a partition that match, in order of arrival from `from` on. `None` when it is not
/// served here, or was not to the end: not all of them may be known.
pub(crate) async fn page(
    shared: &Arc<Shared>,
    partition: Partition,
    filter: &Filter,
    from: Option<JobId>,
) -> Result<Option<Page<Job>>, QueueError> {
    if !serves(shared, partition) {
        return Ok(None);
    }
    let now = shared.now();
    let Page { items: views, next } = look(shared, partition, filter, from);
    let mut items = read_jobs(shared, views).await?;
    items.retain(|job| filter.matches(job, now));
    Ok(serves(shared, partition).then_some(Page { items, next }))
}

/// Whether a partition is ours, and all of its records are known.
fn serves(shared: &Shared, partition: Partition) -> bool {
    let tenure = shared.tenures().get(&partition).cloned();
    tenure.is_some_and(|tenure| *tenure.loaded().borrow() && tenure.is_serving())
}

/// The jobs of a partition that may match, by what is in memory.
fn look(
    shared: &Arc<Shared>,
    partition: Partition,
    filter: &Filter,
    from: Option<JobId>,
) -> Page<View<Place>> {
    let mut next = from.or(filter.message.map(|message| JobId { message, index: 0 }));
    let now = shared.now();
    shared.index().schedule.advance(now);
    let mut items = Vec::new();
    for _ in 0..SELECTIONS {
        // Locked anew each time: others want to get on.
        let page = shared.index().schedule.select(next, PAGE, |glance| {
            filter.may_match(glance, now) && shared.partition(glance.next_hop) == partition
        });
        items.extend(page.jobs);
        let only = filter.message;
        next = page.next.filter(|next| only.is_none_or(|message| message == next.message));
        if next.is_none() || items.len() > PAGE {
            break;
        }
    }
    end::sweep(shared);
    Page { items, next }
}

/// The same, with what `action` did to them.
pub(crate) async fn act_on_page(
    shared: &Arc<Shared>,
    partition: Partition,
    filter: &Filter,
    action: Action,
    from: Option<JobId>,
) -> Result<Option<Page<Acted>>, QueueError> {
    let page = page(shared, partition, filter, from).await?;
    let Some(Page { items, next }) = page else { return Ok(None) };
    let jobs: Vec<JobId> = items.iter().map(|job| job.id).collect();
    let first = jobs.first().copied().or(next);
    let acts = stream::iter(jobs).map(|job| act::act(shared, job, action)).buffered(ACTIONS);
    let acted: Vec<Option<Acted>> = acts.try_collect().await?;
    let items: Vec<Acted> = acted.into_iter().flatten().collect();
    // What went to another owner meanwhile was not acted on here: it is asked for the same again.
    let next = if serves(shared, partition) { next } else { first };
    Ok(Some(Page { items, next }))
}

/// A piece of the content of the first job that matches, as an answer's only item; no item when
/// there is no such job.
pub(crate) async fn piece(
    shared: &Arc<Shared>,
    partition: Partition,
    filter: &Filter,
    at: u64,
) -> Result<Option<Page<Piece>>, QueueError> {
    if !serves(shared, partition) {
        return Ok(None);
    }
    let Page { items: views, .. } = look(shared, partition, filter, None);
    let items = match views.first() {
        Some(view) => vec![Piece::read(shared, view.id, at).await],
        None => Vec::new(),
    };
    Ok(serves(shared, partition).then_some(Page { items, next: None }))
}

/// Reads jobs; passes over those that ended meanwhile.
async fn read_jobs(shared: &Arc<Shared>, views: Vec<View<Place>>) -> Result<Vec<Job>, QueueError> {
    let reads = stream::iter(views).map(|view| async move {
        let read = read::read_job(shared, view.id).await;
        (view, read)
    });
    let reads: Vec<_> = reads.buffered(READS).collect().await;
    let mut jobs = Vec::with_capacity(reads.len());
    for (view, read) in reads {
        match read {
            Ok(Some(read)) => jobs.push(read.state.job(read.source.message(), &view)),
            Ok(None) => {}
            Err(error @ ReadError::Unavailable(_)) => return Err(error.into()),
            Err(error) if error.is_final(view.phase) => {
                jobs.push(unreadable::shown(&view, &error));
            }
            Err(error) => tracing::error!(job = %view.id, %error, "cannot show a job"),
        }
    }
    Ok(jobs)
}

/// What one process has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Holding {
    /// Those that it serves, all of whose records it knows.
    pub(crate) partitions: Vec<Partition>,
    pub(crate) stats: Stats,
}

/// Our partitions in numbers, as an answer's only item, when this one is among them.
pub(crate) fn holding(shared: &Arc<Shared>, partition: Partition) -> Option<Page<Holding>> {
    let stats = stats(shared);
    let mut partitions: Vec<Partition> = shared.tenures().keys().copied().collect();
    partitions.retain(|partition| serves(shared, *partition));
    let items = vec![Holding { stats, partitions }];
    serves(shared, partition).then_some(Page { items, next: None })
}

/// Our partitions in numbers; what the streams occupy is not among them.
fn stats(shared: &Arc<Shared>) -> Stats {
    let mut index = shared.index();
    index.schedule.advance(shared.now());
    let counts = index.schedule.counts();
    let stats = Stats {
        messages: counts.messages,
        content_bytes: counts.content_bytes,
        ready: counts.ready,
        active: counts.active,
        deferred: counts.deferred(),
        held: counts.held,
        quarantined: counts.quarantined,
        oldest_ready: index.schedule.oldest_ready(),
        store_bytes: 0,
        store_limit_bytes: 0,
    };
    drop(index);
    end::sweep(shared);
    stats
}
