//! The jobs of all processes: each answers for its partitions.
//!
//! A question is one request to the owner's subject, and its answer one page; whoever asks merges
//! the pages of all owners in order of arrival.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_nats::Request;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use mail_types::QueueId;
use queue::contract::Cause;
use queue::{Acted, Action, Filter, HopKind, Job, JobId, JobSummary, QueueError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::here::{self, Page};
use crate::names::Partition;
use crate::ownership;
use crate::shared::Shared;

/// Octets of an answer that the servers pass on, their own included.
const ANSWER_MAX: usize = 1 << 19;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Question {
    filter: Filter,
    from: Option<JobId>,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    List,
    Show,
    Act(Action),
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer<T> {
    Page { items: Vec<T>, next: Option<JobId> },
    Error(String),
}

fn subject(process: &str) -> String {
    format!("postrider.owner.{process}")
}

/// Answers others until the queue is closed.
pub(crate) async fn answer(shared: Arc<Shared>) {
    let work = async {
        loop {
            if let Err(error) = listen(&shared).await {
                tracing::debug!(%error, "operators are not heard");
            }
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn listen(shared: &Arc<Shared>) -> Result<(), Cause> {
    let mut questions = shared.broker.client.subscribe(subject(&shared.writer)).await?;
    while let Some(message) = questions.next().await {
        let Some(reply) = message.reply.clone() else { continue };
        let question: Question = serde_json::from_slice(&message.payload)?;
        let payload = answer_to(shared, &question).await?;
        shared.broker.client.publish(reply, payload.into()).await?;
    }
    Err("nothing is heard any more".into())
}

async fn answer_to(shared: &Arc<Shared>, question: &Question) -> Result<Vec<u8>, Cause> {
    let Question { filter, from, what } = question;
    let answer = match what {
        What::List => written(list_page(shared, filter, *from).await),
        What::Show => written(here::page(shared, filter, *from).await),
        What::Act(action) => written(here::act_on_page(shared, filter, *action, *from).await),
    }?;
    if answer.len() > ANSWER_MAX {
        return written::<()>(Err(QueueError::Unavailable("the answer is too long".into())));
    }
    Ok(answer)
}

fn written<T: Serialize>(page: Result<Page<T>, QueueError>) -> Result<Vec<u8>, Cause> {
    let answer = match page {
        Ok(Page { items, next }) => Answer::Page { items, next },
        Err(error) => Answer::Error(error.to_string()),
    };
    Ok(serde_json::to_vec(&answer)?)
}

async fn list_page(
    shared: &Arc<Shared>,
    filter: &Filter,
    from: Option<JobId>,
) -> Result<Page<JobSummary>, QueueError> {
    let page = here::page(shared, filter, from).await?;
    Ok(Page { items: page.items.iter().map(Job::summary).collect(), next: page.next })
}

/// The processes that own partitions, but for us.
async fn others(shared: &Shared) -> Result<BTreeSet<String>, QueueError> {
    let kinds = [HopKind::Smtp, HopKind::Mailbox];
    let mut others = BTreeSet::new();
    let all = kinds.into_iter().flat_map(|kind| Partition::all(kind, shared.partitions(kind)));
    for partition in all.filter(|partition| !shared.tenures().contains_key(partition)) {
        let holder = ownership::holder(shared, partition).await;
        match holder.map_err(QueueError::Unavailable)? {
            Some(holder) if holder != shared.writer => drop(others.insert(holder)),
            Some(_) => {}
            None => {
                let error = format!("nobody serves partition {partition} now: start a role");
                return Err(QueueError::Unavailable(error.into()));
            }
        }
    }
    Ok(others)
}

async fn ask<T: DeserializeOwned>(
    shared: &Shared,
    process: &str,
    question: &Question,
) -> Result<Page<T>, QueueError> {
    let unavailable = |error: Cause| QueueError::Unavailable(error);
    let payload = serde_json::to_vec(question).map_err(|error| unavailable(error.into()))?;
    // Owners may not publish to where other roles are answered.
    let inbox = format!("postrider.answer.{:016x}", rand::random::<u64>());
    let request = Request::new().payload(payload.into()).inbox(inbox);
    let answer = shared.broker.client.send_request(subject(process), request).await;
    let answer = answer.map_err(|error| unavailable(error.into()))?;
    match serde_json::from_slice(&answer.payload).map_err(|error| unavailable(error.into()))? {
        Answer::Page { items, next } => Ok(Page { items, next }),
        Answer::Error(error) => Err(unavailable(error.into())),
    }
}

/// All pages of one process.
fn pages<T: DeserializeOwned + Send + 'static>(
    shared: Arc<Shared>,
    process: String,
    question: Question,
) -> BoxStream<'static, Result<T, QueueError>> {
    stream::try_unfold(Some(question), move |question| {
        let (shared, process) = (Arc::clone(&shared), process.clone());
        async move {
            let Some(question) = question else { return Ok::<_, QueueError>(None) };
            let page: Page<T> = ask(&shared, &process, &question).await?;
            let next = page.next.map(|from| Question { from: Some(from), ..question });
            Ok(Some((stream::iter(page.items.into_iter().map(Ok)), next)))
        }
    })
    .try_flatten()
    .boxed()
}

/// All pages of ours.
fn our_pages<T, F>(
    shared: Arc<Shared>,
    read: impl Fn(Arc<Shared>, Option<JobId>) -> F + Send + 'static,
) -> BoxStream<'static, Result<T, QueueError>>
where
    T: Send + 'static,
    F: Future<Output = Result<Page<T>, QueueError>> + Send + 'static,
{
    stream::try_unfold(Some(None), move |from: Option<Option<JobId>>| {
        let page = from.map(|from| read(Arc::clone(&shared), from));
        async move {
            let Some(page) = page else { return Ok::<_, QueueError>(None) };
            let page = page.await?;
            Ok(Some((stream::iter(page.items.into_iter().map(Ok)), page.next.map(Some))))
        }
    })
    .try_flatten()
    .boxed()
}

pub(crate) fn list(
    shared: Arc<Shared>,
    filter: Filter,
) -> BoxStream<'static, Result<JobSummary, QueueError>> {
    let listing = async move {
        let others = others(&shared).await?;
        let question = Question { filter: filter.clone(), from: None, what: What::List };
        let mut sources: Vec<_> = others
            .into_iter()
            .map(|process| pages(Arc::clone(&shared), process, question.clone()))
            .collect();
        sources.push(our_pages(shared, move |shared, from| {
            let filter = filter.clone();
            async move { list_page(&shared, &filter, from).await }
        }));
        Ok::<_, QueueError>(merged(sources))
    };
    stream::once(listing).try_flatten().boxed()
}

/// Sorted streams as one.
fn merged(
    sources: Vec<BoxStream<'static, Result<JobSummary, QueueError>>>,
) -> BoxStream<'static, Result<JobSummary, QueueError>> {
    let sources = sources.into_iter().map(StreamExt::peekable).map(Box::pin).collect::<Vec<_>>();
    stream::unfold(sources, |mut sources| async move {
        let mut first: Option<(usize, Option<JobId>)> = None;
        for (at, source) in sources.iter_mut().enumerate() {
            let Some(item) = source.as_mut().peek().await else { continue };
            // What failed is told first: what comes after it is not all there is.
            let id = item.as_ref().ok().map(|summary| summary.id);
            if first.is_none_or(|(_, least)| id < least) {
                first = Some((at, id));
            }
        }
        let (at, _) = first?;
        let item = sources[at].next().await?;
        Some((item, sources))
    })
    .boxed()
}

pub(crate) async fn show(shared: &Arc<Shared>, message: QueueId) -> Result<Vec<Job>, QueueError> {
    let filter = Filter { message: Some(message), ..Filter::default() };
    let question = Question { filter: filter.clone(), from: None, what: What::Show };
    let ours = our_pages(Arc::clone(shared), move |shared, from| {
        let filter = filter.clone();
        async move { here::page(&shared, &filter, from).await }
    });
    let mut jobs: Vec<Job> = ours.try_collect().await?;
    for process in others(shared).await? {
        let theirs = pages(Arc::clone(shared), process, question.clone());
        jobs.extend(theirs.try_collect::<Vec<Job>>().await?);
    }
    jobs.sort_by_key(|job| job.id);
    Ok(jobs)
}

pub(crate) fn act(
    shared: Arc<Shared>,
    filter: Filter,
    action: Action,
) -> BoxStream<'static, Result<Acted, QueueError>> {
    let acting = async move {
        let others = others(&shared).await?;
        let question = Question { filter: filter.clone(), from: None, what: What::Act(action) };
        let theirs = others
            .into_iter()
            .map(|process| pages(Arc::clone(&shared), process, question.clone()))
            .collect::<Vec<_>>();
        let ours = our_pages(Arc::clone(&shared), move |shared, from| {
            let filter = filter.clone();
            async move { here::act_on_page(&shared, &filter, action, from).await }
        });
        Ok::<_, QueueError>(ours.chain(stream::iter(theirs).flatten()))
    };
    stream::once(acting).try_flatten().boxed()
}
