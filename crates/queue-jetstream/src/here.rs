//! What this process knows of its partitions' jobs.

use std::sync::Arc;

use futures::stream;
use futures::{StreamExt, TryStreamExt};
use queue::schedule::View;
use queue::{Acted, Action, Filter, Job, JobId, QueueError, Stats};

use crate::index::Place;
use crate::read::{self, ReadError};
use crate::shared::Shared;
use crate::{act, end};

/// Jobs that are looked at together.
const PAGE: usize = 128;
/// Reads under way at once.
const READS: usize = 16;
/// Actions under way at once.
const ACTIONS: usize = 16;

/// Part of an answer, and where the next begins.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<JobId>,
}

/// The jobs that match, in order of arrival from `from` on.
pub(crate) async fn page(
    shared: &Arc<Shared>,
    filter: &Filter,
    from: Option<JobId>,
) -> Result<Page<Job>, QueueError> {
    let from = from.or(filter.message.map(|message| JobId { message, index: 0 }));
    let now = shared.now();
    let page = {
        let mut index = shared.index();
        index.schedule.advance(now);
        index.schedule.page(from, PAGE)
    };
    end::sweep(shared);
    let mut views = page.jobs;
    let only = filter.message;
    let next = page.next.filter(|next| only.is_none_or(|message| message == next.message));
    views.retain(|view| filter.may_match(view.id, &view.tenant, view.phase, now));
    let mut items = read_jobs(shared, views).await?;
    items.retain(|job| filter.matches(job, now));
    Ok(Page { items, next })
}

/// The same, with what `action` did to them.
pub(crate) async fn act_on_page(
    shared: &Arc<Shared>,
    filter: &Filter,
    action: Action,
    from: Option<JobId>,
) -> Result<Page<Acted>, QueueError> {
    let page = page(shared, filter, from).await?;
    let jobs: Vec<JobId> = page.items.iter().map(|job| job.id).collect();
    let acts = stream::iter(jobs).map(|job| act::act(shared, job, action)).buffered(ACTIONS);
    let acted: Vec<Option<Acted>> = acts.try_collect().await?;
    Ok(Page { items: acted.into_iter().flatten().collect(), next: page.next })
}

/// Reads jobs; passes over those that ended meanwhile and those whose records are damaged.
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
            Err(ReadError::Damaged(error)) => {
                tracing::error!(job = %view.id, %error, "cannot show a job");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(jobs)
}

/// Our partitions in numbers; what the streams occupy is not among them.
pub(crate) fn stats(shared: &Arc<Shared>) -> Stats {
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
