//! The jobs of all processes: the owner of each partition answers for it.
//!
//! A question is one request to the owner's subject, and its answer one page of one partition.
//! Whoever asks follows a partition that goes to another owner between two pages, and merges the
//! pages of all partitions in order of arrival.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Request, RequestErrorKind};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use mail_types::QueueId;
use queue::contract::Cause;
use queue::{
    Acted, Action, Content, ContentError, Filter, Job, JobId, JobSummary, QueueError, Stats,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::here::{self, Holding, Page};
use crate::names::Partition;
use crate::ownership;
use crate::piece::Piece;
use crate::shared::Shared;

/// Octets of an answer that the servers pass on, their own included.
const ANSWER_MAX: usize = 1 << 19;
/// Questions that are answered at once.
const ANSWERS: usize = 8;
/// Between two looks for the owner of a partition on its way.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Question {
    partition: Partition,
    filter: Filter,
    from: Option<JobId>,
    what: What,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    List,
    Show,
    Act(Action),
    /// The piece of content that begins at this octet.
    Content(u64),
    /// All that the owner of the partition has, in numbers.
    Count,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer<T> {
    Page {
        items: Vec<T>,
        next: Option<JobId>,
    },
    /// The partition is another's, or not all of it is known yet.
    NotMine,
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
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn listen(shared: &Arc<Shared>) -> Result<(), Cause> {
    let questions = shared.broker.client.subscribe(subject(&shared.writer)).await?;
    let answers = questions.for_each_concurrent(ANSWERS, |message| async move {
        if let Err(error) = answer_one(shared, &message).await {
            tracing::debug!(%error, "a question is not answered");
        }
    });
    answers.await;
    Err("nothing is heard any more".into())
}

async fn answer_one(shared: &Arc<Shared>, message: &Message) -> Result<(), Cause> {
    let Some(reply) = message.reply.clone() else { return Ok(()) };
    let question: Question = serde_json::from_slice(&message.payload)?;
    let payload = answer_to(shared, &question).await?;
    Ok(shared.broker.client.publish(reply, payload.into()).await?)
}

async fn answer_to(shared: &Arc<Shared>, question: &Question) -> Result<Vec<u8>, Cause> {
    let Question { partition, filter, from, what } = question;
    let answer = match what {
        What::List => written(list_page(shared, *partition, filter, *from).await),
        What::Show => written(here::page(shared, *partition, filter, *from).await),
        What::Act(action) => {
            written(here::act_on_page(shared, *partition, filter, *action, *from).await)
        }
        What::Content(at) => written(here::piece(shared, *partition, filter, *at).await),
        What::Count => written(Ok(here::holding(shared, *partition))),
    }?;
    if answer.len() > ANSWER_MAX {
        return written::<()>(Err(QueueError::Unavailable("the answer is too long".into())));
    }
    Ok(answer)
}

fn written<T: Serialize>(page: Result<Option<Page<T>>, QueueError>) -> Result<Vec<u8>, Cause> {
    let answer = match page {
        Ok(Some(Page { items, next })) => Answer::Page { items, next },
        Ok(None) => Answer::NotMine,
        Err(error) => Answer::Error(error.to_string()),
    };
    Ok(serde_json::to_vec(&answer)?)
}

async fn list_page(
    shared: &Arc<Shared>,
    partition: Partition,
    filter: &Filter,
    from: Option<JobId>,
) -> Result<Option<Page<JobSummary>>, QueueError> {
    let page = here::page(shared, partition, filter, from).await?;
    let summaries = |jobs: Vec<Job>| jobs.iter().map(Job::summary).collect();
    Ok(page.map(|Page { items, next }| Page { items: summaries(items), next }))
}

/// The next page of a partition, from whoever has it.
async fn page<T>(shared: &Arc<Shared>, question: &Question) -> Result<Page<T>, QueueError>
where
    T: Serialize + DeserializeOwned,
{
    let partition = question.partition;
    // It goes to another owner within this, also when its owner was killed.
    let patience = Instant::now() + 2 * shared.config.ownership_ttl();
    loop {
        let page = match holder(shared, partition).await? {
            Some(holder) if holder == shared.writer => ours(shared, question).await?,
            Some(holder) => ask(shared, &holder, question).await?,
            None => None,
        };
        if let Some(page) = page {
            return Ok(page);
        }
        if Instant::now() > patience {
            let error = format!("nobody serves partition {partition} now: start a role");
            return Err(QueueError::Unavailable(error.into()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn holder(shared: &Shared, partition: Partition) -> Result<Option<String>, QueueError> {
    if shared.tenures().contains_key(&partition) {
        return Ok(Some(shared.writer.clone()));
    }
    ownership::holder(shared, partition).await.map_err(QueueError::Unavailable)
}

/// As the answer of another process, of ourselves.
async fn ours<T: DeserializeOwned>(
    shared: &Arc<Shared>,
    question: &Question,
) -> Result<Option<Page<T>>, QueueError> {
    let answer = answer_to(shared, question).await.map_err(QueueError::Unavailable)?;
    understood(&answer)
}

/// `None` when the process does not have the partition, or is gone.
async fn ask<T: DeserializeOwned>(
    shared: &Shared,
    process: &str,
    question: &Question,
) -> Result<Option<Page<T>>, QueueError> {
    let unavailable = |error: Cause| QueueError::Unavailable(error);
    let payload = serde_json::to_vec(question).map_err(|error| unavailable(error.into()))?;
    // Owners may not publish to where other roles are answered.
    let inbox = format!("postrider.answer.{:016x}", rand::random::<u64>());
    let request = Request::new().payload(payload.into()).inbox(inbox);
    match shared.broker.client.send_request(subject(process), request).await {
        Ok(answer) => understood(&answer.payload),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
        Err(error) => Err(unavailable(error.into())),
    }
}

fn understood<T: DeserializeOwned>(answer: &[u8]) -> Result<Option<Page<T>>, QueueError> {
    let unavailable = |error: Cause| QueueError::Unavailable(error);
    match serde_json::from_slice(answer).map_err(|error| unavailable(error.into()))? {
        Answer::Page { items, next } => Ok(Some(Page { items, next })),
        Answer::NotMine => Ok(None),
        Answer::Error(error) => Err(unavailable(error.into())),
    }
}

/// All pages of each partition.
fn pages<T>(
    shared: &Arc<Shared>,
    filter: &Filter,
    what: What,
) -> Vec<BoxStream<'static, Result<T, QueueError>>>
where
    T: Serialize + DeserializeOwned + Send + 'static,
{
    let of_partition = |partition: Partition| {
        let first = Question { partition, filter: filter.clone(), from: None, what };
        let shared = Arc::clone(shared);
        stream::try_unfold(Some(first), move |question| {
            let shared = Arc::clone(&shared);
            async move {
                let Some(question) = question else { return Ok::<_, QueueError>(None) };
                let page: Page<T> = page(&shared, &question).await?;
                let next = page.next.map(|from| Question { from: Some(from), ..question });
                Ok(Some((stream::iter(page.items.into_iter().map(Ok)), next)))
            }
        })
        .try_flatten()
        .boxed()
    };
    shared.config.all_partitions().map(of_partition).collect()
}

pub(crate) fn list(
    shared: Arc<Shared>,
    filter: Filter,
) -> BoxStream<'static, Result<JobSummary, QueueError>> {
    merged(pages(&shared, &filter, What::List))
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
    let partitions = stream::select_all(pages::<Job>(shared, &filter, What::Show));
    let mut jobs: Vec<Job> = partitions.try_collect().await?;
    jobs.sort_by_key(|job| job.id);
    Ok(jobs)
}

/// The content of a message, piece by piece from whoever has one of its jobs.
pub(crate) async fn content(
    shared: &Arc<Shared>,
    message: QueueId,
) -> Result<Option<Content>, ContentError> {
    let unavailable = |error: QueueError| ContentError::Unavailable(error.into());
    let jobs = show(shared, message).await.map_err(unavailable)?;
    let Some(job) = jobs.first() else { return Ok(None) };
    let partition = shared.partition(&job.next_hop);
    let filter = Filter { message: Some(message), ..Filter::default() };
    let question = move |at| Question {
        partition,
        filter: filter.clone(),
        from: None,
        what: What::Content(at),
    };
    let (first, size) = piece(shared, &question(0)).await?;
    let shared = Arc::clone(shared);
    let rest = stream::try_unfold(first.len() as u64, move |at| {
        let (shared, question) = (Arc::clone(&shared), question(at));
        async move {
            if at >= size {
                return Ok(None);
            }
            let (octets, _) = piece(&shared, &question).await?;
            let next = at + octets.len() as u64;
            match next == at {
                true => Err(ContentError::Damaged("it ends too early".into())),
                false => Ok(Some((octets, next))),
            }
        }
    });
    let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
    Ok(Some(Content { size, chunks: first.chain(rest).boxed() }))
}

async fn piece(shared: &Arc<Shared>, question: &Question) -> Result<(Bytes, u64), ContentError> {
    let answer: Result<Page<Piece>, QueueError> = page(shared, question).await;
    let mut answer = answer.map_err(|error| ContentError::Unavailable(error.into()))?;
    match answer.items.pop() {
        Some(piece) => piece.octets(),
        None => Err(ContentError::Unavailable("the job has ended meanwhile".into())),
    }
}

/// All partitions in numbers, each process asked once. A message that has jobs in several processes
/// counts in each.
pub(crate) async fn stats(shared: &Arc<Shared>) -> Result<Stats, QueueError> {
    let mut sum = Stats::default();
    let mut left: Vec<Partition> = shared.config.all_partitions().collect();
    while let Some(partition) = left.pop() {
        let filter = Filter::default();
        let question = Question { partition, filter, from: None, what: What::Count };
        let page: Page<Holding> = page(shared, &question).await?;
        for Holding { partitions, stats } in page.items {
            left.retain(|partition| !partitions.contains(partition));
            sum.add(&stats);
        }
    }
    Ok(sum)
}

pub(crate) fn act(
    shared: Arc<Shared>,
    filter: Filter,
    action: Action,
) -> BoxStream<'static, Result<Acted, QueueError>> {
    stream::select_all(pages(&shared, &filter, What::Act(action))).boxed()
}
