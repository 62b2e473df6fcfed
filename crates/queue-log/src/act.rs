//! What an operator does to a job.

use std::sync::Arc;

use futures::future::join_all;
use futures::stream::{self, BoxStream, StreamExt};
use queue::schedule::{Back, Placement};
use queue::stored::{Acting, Change};
use queue::{ActResult, Acted, Action, Filter, JobId, Phase, QueueError};
use tokio::sync::oneshot;

use crate::content::{self, ReadError, ReadJob};
use crate::index::{Effect, Next, Places};
use crate::list::{self, Found};
use crate::quarantine;
use crate::record;
use crate::shared::{Message, Outcome, Request, Shared, closed};

/// How often an action is done anew because a worker changed the job meanwhile.
const TRIES: usize = 16;

/// Jobs that are acted on together: their records share a sync.
const TOGETHER: usize = 64;

/// Acts on the jobs that match. Those that cannot be read are told of last, in one error: who reads
/// the stream may stop at the first.
pub(crate) fn all(
    shared: Arc<Shared>,
    filter: Filter,
    action: Action,
) -> BoxStream<'static, Result<Acted, QueueError>> {
    let jobs = list::matching(Arc::clone(&shared), filter).chunks(TOGETHER).fuse();
    let acting = stream::unfold((jobs, None), move |(mut jobs, mut failed)| {
        let shared = Arc::clone(&shared);
        async move {
            let Some(found) = jobs.next().await else {
                return failed.take().map(|error| (vec![Err(error)], (jobs, None)));
            };
            let (mut chosen, mut acted) = (Vec::new(), Vec::new());
            for found in found {
                match found {
                    Ok(Found::Unreadable(view, error)) if action != Action::CancelSilently => {
                        failed = Some(unreadable(view.id, error));
                    }
                    Ok(found) => chosen.push(found.id()),
                    Err(error) => acted.push(Err(error)),
                }
            }
            acted.extend(act_on(&shared, &chosen, action).await);
            Some((acted, (jobs, failed)))
        }
    });
    acting.map(stream::iter).flatten().boxed()
}

/// Acts on different jobs; of those that are no more nothing is told.
async fn act_on(
    shared: &Arc<Shared>,
    jobs: &[JobId],
    action: Action,
) -> Vec<Result<Acted, QueueError>> {
    // One action at a time: what one stops while it is recorded, another must not start again.
    let Ok(_turn) = shared.acting.acquire().await else {
        return vec![Err(QueueError::Unavailable(closed()))];
    };
    let acted = join_all(jobs.iter().map(|job| act(shared, *job, action))).await;
    acted.into_iter().filter_map(Result::transpose).collect()
}

/// Acts on a job; `None` when it is no more.
async fn act(
    shared: &Arc<Shared>,
    job: JobId,
    action: Action,
) -> Result<Option<Acted>, QueueError> {
    let unavailable =
        |error: Box<dyn std::error::Error + Send + Sync>| QueueError::Unavailable(error);
    for _ in 0..TRIES {
        let reader = Arc::clone(shared);
        let read = tokio::task::spawn_blocking(move || read(&reader, job, action));
        let read = read.await.map_err(|error| unavailable(error.into()))?;
        let Some(known) = read? else { return Ok(None) };
        let permit = shared.requests.reserve().await.map_err(|_| unavailable(closed()))?;
        let (request, result, reply) = match prepare(shared, job, action, known) {
            Prepared::Request(request, result, reply) => (request, result, reply),
            Prepared::Nothing(result) => return Ok(Some(Acted { job, result })),
            Prepared::Stale => continue,
        };
        permit.send(Message::Append(request));
        match Outcome::received(reply.await) {
            Outcome::Durable => return Ok(Some(Acted { job, result })),
            Outcome::Changed => {}
            Outcome::Full(error) | Outcome::Refused(error) | Outcome::Unknown(error) => {
                return Err(unavailable(error.into()));
            }
        }
    }
    Err(unavailable("the job changes all the time".into()))
}

enum Prepared {
    Request(Box<Request>, ActResult, oneshot::Receiver<Outcome>),
    Nothing(ActResult),
    /// The job has other records by now.
    Stale,
}

/// What an action starts from.
enum Known {
    Job(ReadJob),
    /// Its records cannot be read: all that it can do is end.
    Unreadable(Places),
}

/// Reads a job. One that cannot be read can be dropped: of a damaged record a copy stays. Blocks.
fn read(shared: &Shared, job: JobId, action: Action) -> Result<Option<Known>, QueueError> {
    let Some(places) = shared.index().schedule.payload(job).copied() else { return Ok(None) };
    let error = match content::read_job(shared, job) {
        Ok(read) => return Ok(read.map(Known::Job)),
        Err(error) => error,
    };
    if action != Action::CancelSilently {
        return Err(unreadable(job, error));
    }
    tracing::error!(%job, %error, "a job that cannot be read is cancelled");
    if let Some(at) = error.damaged_at() {
        let kept = quarantine::keep(shared, job.message, at);
        kept.map_err(|error| QueueError::Unavailable(error.into()))?;
    }
    Ok(Some(Known::Unreadable(places)))
}

/// Why an action cannot be done that needs what is written of the job.
pub(crate) fn unreadable(job: JobId, source: ReadError) -> QueueError {
    QueueError::Unavailable(Box::new(Unreadable { job, source }))
}

#[derive(Debug, thiserror::Error)]
#[error("what is written of {job} cannot be read: it can only be cancelled without a DSN")]
struct Unreadable {
    job: JobId,
    source: ReadError,
}

/// Makes the record of an action. Until it is durable, a job that is not leased is not leased.
fn prepare(shared: &Shared, job: JobId, action: Action, known: Known) -> Prepared {
    let now = shared.now();
    let places = match &known {
        Known::Job(read) => read.places,
        Known::Unreadable(places) => *places,
    };
    let mut index = shared.index();
    index.schedule.advance(now);
    index.sweep();
    let before = index.schedule.placement(job);
    let Some(view) = index.schedule.get(job).filter(|view| view.payload == places) else {
        return Prepared::Stale;
    };
    let acting = match known {
        Known::Job(read) => read.state.acted(action, view.phase),
        // Its worker may know what the disk does not.
        Known::Unreadable(_) if view.phase == Phase::Active => {
            Acting { result: ActResult::NotApplicable, change: Change::Nothing }
        }
        Known::Unreadable(_) => Acting { result: ActResult::Done, change: Change::Gone },
    };
    let mut draft = record::Draft::new();
    let (next, back) = match &acting.change {
        Change::Nothing => return Prepared::Nothing(acting.result),
        Change::State(state) => {
            draft.state(job, state);
            (Next::from(state.placement()), state.back())
        }
        Change::Gone => {
            draft.done(job);
            (Next::Gone, Back::Gone)
        }
    };
    // A few hundred octets.
    let Ok(record) = draft.finish() else { return Prepared::Nothing(ActResult::NotApplicable) };
    let before = before.filter(|_| view.phase != Phase::Active);
    if before.is_some() {
        index.schedule.replace(job, Placement::Held, places, now);
    }
    drop(index);
    let effect = Effect::Acted { job, places, next, back, before };
    let (reply, receiver) = oneshot::channel();
    let expects = vec![(job, places)];
    let request = Box::new(Request { record, expects, effect, reply });
    Prepared::Request(request, acting.result, receiver)
}
