//! What an operator does to a job.

use std::sync::Arc;

use queue::schedule::{Back, Placement};
use queue::stored::Change;
use queue::{ActResult, Acted, Action, JobId, Phase, QueueError};
use tokio::sync::oneshot;

use crate::content::{self, ReadJob};
use crate::index::{Effect, Next};
use crate::record;
use crate::shared::{Message, Outcome, Request, Shared, closed};

/// How often an action is done anew because a worker changed the job meanwhile.
const TRIES: usize = 16;

/// Acts on a job; `None` when it is no more.
pub(crate) async fn act(
    shared: &Arc<Shared>,
    job: JobId,
    action: Action,
) -> Result<Option<Acted>, QueueError> {
    let unavailable =
        |error: Box<dyn std::error::Error + Send + Sync>| QueueError::Unavailable(error);
    // One at a time: what an action stops while it is recorded, another must not start again.
    let _turn = shared.acting.acquire().await.map_err(|error| unavailable(error.into()))?;
    for _ in 0..TRIES {
        let reader = Arc::clone(shared);
        let read = tokio::task::spawn_blocking(move || content::read_job(&reader, job));
        let read = read.await.map_err(|error| unavailable(error.into()))?;
        let Some(read) = read? else { return Ok(None) };
        let permit = shared.requests.reserve().await.map_err(|_| unavailable(closed()))?;
        let (request, result, reply) = match prepare(shared, job, action, read) {
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

/// Makes the record of an action. Until it is durable, a job that is not leased is not leased.
fn prepare(shared: &Shared, job: JobId, action: Action, read: ReadJob) -> Prepared {
    let now = shared.now();
    let ReadJob { state, places, .. } = read;
    let mut index = shared.index();
    index.schedule.advance(now);
    index.sweep();
    let before = index.schedule.placement(job);
    let Some(view) = index.schedule.get(job).filter(|view| view.payload == places) else {
        return Prepared::Stale;
    };
    let acting = state.acted(action, view.phase);
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
