//! What an operator sees of the queue.
//!
//! A job whose records cannot be read is shown by what the index knows of it: it must not hide
//! from whom it waits for.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use mail_types::QueueId;
use queue::schedule::View;
use queue::{Filter, Job, JobId, JobSummary, QueueError};

use crate::act;
use crate::content::{self, ReadError};
use crate::index::Places;
use crate::shared::Shared;

/// Jobs that a list reads at once.
const PAGE: usize = 128;
/// The sender of a job that cannot be read; no reverse-path is written so.
const UNKNOWN: &str = "?";

/// A job that matches a filter.
pub(crate) enum Found {
    Job(Box<Job>),
    Unreadable(Box<View<Places>>, ReadError),
}

impl Found {
    pub(crate) fn id(&self) -> JobId {
        match self {
            Self::Job(job) => job.id,
            Self::Unreadable(view, _) => view.id,
        }
    }

    /// The job in a list.
    pub(crate) fn summary(&self) -> JobSummary {
        match self {
            Self::Job(job) => job.summary(),
            Self::Unreadable(view, error) => unreadable_summary(view, error),
        }
    }
}

fn unreadable_summary(view: &View<Places>, error: &ReadError) -> JobSummary {
    JobSummary {
        id: view.id,
        phase: view.phase,
        tenant: view.tenant.clone(),
        sender: UNKNOWN.to_owned(),
        recipients: Vec::new(),
        recipients_pending: 0,
        next_hop: view.next_hop.to_string(),
        size: view.size,
        arrival: view.id.message.arrival(),
        attempts: 0,
        next_attempt: view.next_attempt,
        last_reply: Some(error.to_string()),
    }
}

/// The jobs that match, page by page.
pub(crate) fn matching(
    shared: Arc<Shared>,
    filter: Filter,
) -> BoxStream<'static, Result<Found, QueueError>> {
    let first = filter.message.map(|message| JobId { message, index: 0 });
    let pages = stream::unfold(Some(first), move |from| {
        let (shared, filter) = (Arc::clone(&shared), filter.clone());
        async move {
            let from = from?;
            let read = tokio::task::spawn_blocking(move || page(&shared, &filter, from));
            match read.await {
                Ok((jobs, next)) => Some((jobs.into_iter().map(Ok).collect(), next.map(Some))),
                Err(error) => Some((vec![Err(QueueError::Unavailable(error.into()))], None)),
            }
        }
    });
    pages.flat_map(stream::iter).boxed()
}

type Page = (Vec<Found>, Option<JobId>);

fn page(shared: &Shared, filter: &Filter, from: Option<JobId>) -> Page {
    let now = shared.now();
    let mut index = shared.index();
    index.schedule.advance(now);
    index.sweep();
    let page = index.schedule.select(from, PAGE, |glance| filter.may_match(glance, now));
    drop(index);
    let only = filter.message;
    let next = page.next.filter(|next| only.is_none_or(|message| message == next.message));
    let mut jobs = read_jobs(shared, page.jobs);
    jobs.retain(|found| match found {
        Found::Job(job) => filter.matches(job, now),
        // Who sent it to whom is not known.
        Found::Unreadable(..) => filter.sender.is_none() && filter.recipient_domain.is_none(),
    });
    (jobs, next)
}

/// Reads jobs; passes over those that ended meanwhile.
fn read_jobs(shared: &Shared, views: Vec<View<Places>>) -> Vec<Found> {
    let mut jobs = Vec::with_capacity(views.len());
    for view in views {
        match content::read_job(shared, view.id) {
            Ok(Some(read)) => jobs.push(Found::Job(Box::new(read.state.job(&read.message, &view)))),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(job = %view.id, %error, "a job cannot be read");
                jobs.push(Found::Unreadable(Box::new(view), error));
            }
        }
    }
    jobs
}

/// The jobs of a message that can be read. Fails when there are some and none of them can.
pub(crate) fn show(shared: &Shared, message: QueueId) -> Result<Vec<Job>, QueueError> {
    let views = shared.index().schedule.of_message(message);
    let (mut jobs, mut failed) = (Vec::with_capacity(views.len()), None);
    for found in read_jobs(shared, views) {
        match found {
            Found::Job(job) => jobs.push(*job),
            Found::Unreadable(view, error) => failed = Some(act::unreadable(view.id, error)),
        }
    }
    failed.filter(|_| jobs.is_empty()).map_or(Ok(jobs), Err)
}
