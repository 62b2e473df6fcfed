//! Jobs that an operator cancelled while they were leased, once they are not.

use std::sync::Arc;

use queue::JobId;
use queue::contract::Cause;

use crate::index::Place;
use crate::record::JobRecord;
use crate::shared::Shared;
use crate::step;

/// Ends the jobs that left the schedule with their lease.
pub(crate) fn sweep(shared: &Arc<Shared>) {
    let gone = shared.index().schedule.take_gone();
    for (job, place) in gone {
        end(shared, job, place);
    }
}

/// Marks a job as ended that is in no schedule any more. Its record says that it is to end: what
/// fails now is done by whoever reads it next.
pub(crate) fn end(shared: &Arc<Shared>, job: JobId, place: Place) {
    let (shared, tasks) = (Arc::clone(shared), shared.tasks.clone());
    tasks.spawn(async move {
        if let Err(error) = end_now(&shared, job, place).await {
            tracing::warn!(%job, %error, "a cancelled job is ended at the next start");
        }
    });
}

async fn end_now(shared: &Shared, job: JobId, place: Place) -> Result<(), Cause> {
    // A request makes a record of a job that has none.
    let Place::Record(partition, sequence) = place else { return Ok(()) };
    let stream = partition.jobs_stream();
    let read = shared.broker.read(&stream, sequence, JobRecord::decode).await?;
    let Some(record) = read.transpose()? else { return Ok(()) };
    let id = format!("{job}-end-{sequence}");
    step::put(shared, job, &record.head, None, sequence, &id).await?;
    Ok(())
}
