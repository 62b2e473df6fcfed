//! What most jobs have in common: where they go, or what they last heard.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use history::reason;
use queue::{JobSummary, Phase, QueueError};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};

/// Jobs that are looked at. Who wants to know more exactly has the metrics.
const JOBS_MAX: u64 = 10_000;
/// And how long it may take.
const TIME_MAX: Duration = Duration::from_secs(3);
/// Rows of an answer.
const ROWS_MAX: usize = 20;

/// What is counted, and of which jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TopQuery {
    pub by: By,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
}

/// What jobs are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// Where they go, such as `smtp:example.net`.
    NextHop,
    /// The last reply, without what differs from message to message; jobs without one are not
    /// counted.
    Reason,
}

/// The names with most jobs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Top {
    /// At most 20, that with most jobs first.
    pub rows: Vec<TopRow>,
    /// Jobs of all other names.
    pub other: u64,
    /// Jobs that were looked at, oldest first.
    pub looked_at: u64,
    /// False when there were more than could be looked at: at most 10,000, for at most 3 s.
    pub complete: bool,
}

/// A name and its jobs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TopRow {
    pub name: String,
    pub jobs: u64,
}

pub(crate) async fn count(
    mut jobs: BoxStream<'static, Result<JobSummary, QueueError>>,
    by: By,
) -> Result<Top, QueueError> {
    let deadline = Instant::now() + TIME_MAX;
    let mut counts = HashMap::<String, u64>::new();
    let mut looked_at = 0;
    let complete = loop {
        // What the stream was about to give when the time was over is not counted as looked at.
        let Ok(next) = timeout_at(deadline, jobs.next()).await else { break false };
        let Some(job) = next.transpose()? else { break true };
        if looked_at == JOBS_MAX {
            break false;
        }
        looked_at += 1;
        let name = match by {
            By::NextHop => Some(job.next_hop),
            By::Reason => job.last_reply.as_deref().map(reason),
        };
        if let Some(name) = name {
            *counts.entry(name).or_default() += 1;
        }
    };
    Ok(top(counts, looked_at, complete))
}

fn top(counts: HashMap<String, u64>, looked_at: u64, complete: bool) -> Top {
    let mut rows: Vec<TopRow> =
        counts.into_iter().map(|(name, jobs)| TopRow { name, jobs }).collect();
    rows.sort_unstable_by(|a, b| (Reverse(a.jobs), &a.name).cmp(&(Reverse(b.jobs), &b.name)));
    let other = rows.iter().skip(ROWS_MAX).map(|row| row.jobs).sum();
    rows.truncate(ROWS_MAX);
    Top { rows, other, looked_at, complete }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_bounded_and_no_job_is_left_out() {
        let counts = (1..=30).map(|jobs| (format!("{jobs:02}"), jobs)).collect();
        let top = top(counts, 465, true);
        assert_eq!(top.rows.len(), ROWS_MAX);
        assert_eq!((top.rows[0].name.as_str(), top.rows[19].jobs, top.other), ("30", 11, 55));
        let tied = [("b", 1), ("a", 1)].map(|(name, jobs)| (name.to_owned(), jobs));
        assert_eq!(super::top(tied.into(), 2, true).rows[0].name, "a");
    }
}
