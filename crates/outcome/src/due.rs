//! Which recipients of a job an attempt takes.

use mail_types::Timestamp;
use queue::{Job, RecipientState};
use retry::Policy;

/// The recipients that a transaction of at most `max` takes: those not tried in this round, the
/// longest waiting first; all that are pending when none is left of the round.
///
/// A job with more recipients than a transaction has room for is tried in several, each settled
/// before the next.
pub fn due_recipients(job: &Job, policy: &Policy, now: Timestamp, max: usize) -> Vec<u32> {
    let mut pending: Vec<(u32, &RecipientState)> = job.pending().collect();
    if pending.iter().any(|(_, state)| is_due(state, job, policy, now)) {
        pending.retain(|(_, state)| is_due(state, job, policy, now));
    }
    pending.sort_by_key(|(_, state)| state.last.as_ref().map(|report| report.at));
    pending.into_iter().map(|(index, _)| index).take(max).collect()
}

/// Whether a recipient has not been tried in the present round of attempts: not for half the
/// interval that a retry takes at least.
pub(crate) fn is_due(state: &RecipientState, job: &Job, policy: &Policy, now: Timestamp) -> bool {
    let Some(last) = &state.last else {
        return true;
    };
    now.since(last.at) >= policy.interval(failures(job)) / 2
}

/// Attempts of a job that brought nobody further; those that did are no reason for patience.
pub(crate) fn failures(job: &Job) -> u32 {
    let fruitful = job.history.iter().filter(|attempt| attempt.delivered > 0).count();
    job.attempts.saturating_sub(u32::try_from(fruitful).unwrap_or(u32::MAX))
}
