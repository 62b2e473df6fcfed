//! What an operator does to a job.

use std::sync::Arc;

use queue::contract::Cause;
use queue::schedule::{Back, Placement};
use queue::stored::{Acting, Change, StoredState};
use queue::{ActResult, Acted, Action, JobId, Phase, QueueError};

use crate::read::{self, ReadError, ReadJob};
use crate::shared::Shared;
use crate::step::{self, Stepped};
use crate::unreadable;

/// How often an action is done anew because a worker changed the job meanwhile.
const TRIES: usize = 16;

/// Acts on a job; `None` when it is no more.
pub(crate) async fn act(
    shared: &Arc<Shared>,
    job: JobId,
    action: Action,
) -> Result<Option<Acted>, QueueError> {
    // A task of its own: dropped half way, an action that is stored would not be known.
    let mine = Arc::clone(shared);
    let acting = shared.tasks.spawn(async move {
        match change(&mine, job, "act", |state, phase| state.acted(action, phase)).await {
            Err(error) => unreadable::act(&mine, job, action, error).await,
            acted => acted,
        }
    });
    let result = acting.await.map_err(unavailable).flatten()?;
    Ok(result.map(|result| Acted { job, result }))
}

/// Gives a job that waits in an intake a record of its own: room for others. Returns whether it
/// waited still.
pub(crate) async fn park(shared: &Arc<Shared>, job: JobId) -> Result<bool, QueueError> {
    let waits = |state: &StoredState, phase| match phase {
        Phase::Ready | Phase::Deferred => {
            Acting { result: ActResult::Done, change: Change::State(Box::new(state.clone())) }
        }
        Phase::Active | Phase::Held | Phase::Quarantined => {
            Acting { result: ActResult::NotApplicable, change: Change::Nothing }
        }
    };
    Ok(change(shared, job, "park", waits).await? == Some(ActResult::Done))
}

/// Records what `decide` makes of a job's state; `None` when the job is no more.
async fn change(
    shared: &Arc<Shared>,
    job: JobId,
    name: &str,
    decide: impl Fn(&StoredState, Phase) -> Acting,
) -> Result<Option<ActResult>, ReadError> {
    let id = format!("{job}-{name}-{:016x}", rand::random::<u64>());
    for _ in 0..TRIES {
        let _turn = shared.turn(job).await;
        let Some(read) = read::read_job(shared, job).await? else { return Ok(None) };
        let Some(prepared) = prepare(shared, job, &read, &decide) else { continue };
        let (next, back) = match &prepared.change {
            Change::Nothing => return Ok(Some(prepared.result)),
            Change::State(state) => (Some(&**state), state.back()),
            Change::Gone => (None, Back::Gone),
        };
        let stepped = step::step(shared, job, &read, next, &id).await;
        apply(shared, job, &read, &prepared, stepped.as_ref().ok(), next, back);
        match stepped.map_err(unavailable)? {
            Stepped::At(_) | Stepped::Gone => return Ok(Some(prepared.result)),
            Stepped::Lost => return Ok(None),
            Stepped::Changed => {}
        }
    }
    Err(unavailable("the job changes all the time"))
}

fn unavailable(error: impl Into<Cause>) -> ReadError {
    ReadError::Unavailable(error.into())
}

struct Prepared {
    result: ActResult,
    change: Change,
    /// Where the job was, unless it is leased; until the action is durable it is not leased.
    before: Option<Placement>,
}

/// `None` when the job has other records by now.
fn prepare(
    shared: &Shared,
    job: JobId,
    read: &ReadJob,
    decide: impl Fn(&StoredState, Phase) -> Acting,
) -> Option<Prepared> {
    let now = shared.now();
    let mut index = shared.index();
    index.schedule.advance(now);
    let before = index.schedule.placement(job);
    let view = index.schedule.get(job).filter(|view| view.payload == read.place)?;
    let acting = decide(&read.state, view.phase);
    let before = before.filter(|_| view.phase != Phase::Active);
    if before.is_some() && acting.change != Change::Nothing {
        index.schedule.replace(job, Placement::Held, read.place, now);
    }
    Some(Prepared { result: acting.result, change: acting.change, before })
}

/// Tells the schedule what came of it.
fn apply(
    shared: &Shared,
    job: JobId,
    read: &ReadJob,
    prepared: &Prepared,
    stepped: Option<&Stepped>,
    next: Option<&StoredState>,
    back: Back,
) {
    let now = shared.now();
    let mut index = shared.index();
    let schedule = &mut index.schedule;
    match (stepped, prepared.before) {
        (Some(Stepped::At(place)), Some(_)) => match next.and_then(StoredState::placement) {
            Some(placement) => drop(schedule.replace(job, placement, *place, now)),
            None => drop(schedule.remove(job)),
        },
        (Some(Stepped::At(place)), None) => drop(schedule.request(job, back, *place)),
        (Some(Stepped::Gone | Stepped::Lost), _) => drop(schedule.remove(job)),
        (Some(Stepped::Changed) | None, Some(before)) => {
            let place = schedule.payload(job).copied().unwrap_or(read.place);
            schedule.replace(job, before, place, now);
        }
        (Some(Stepped::Changed) | None, None) => {}
    }
    drop(index);
    shared.changed.notify_waiters();
}
