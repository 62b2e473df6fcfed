//! Jobs whose records cannot be read: quarantined, and shown with what their subjects tell.
//!
//! A message that cannot be read where it came in becomes such a record, octet for octet: there it
//! would hold up others, here it is listed, and the content that it may refer to is kept.

use std::sync::Arc;

use async_nats::jetstream::Message;
use mail_types::{BodyType, Envelope, Origin, ReversePath};
use queue::contract::Cause;
use queue::schedule::{NewEntry, Placement, View};
use queue::{ActResult, Action, Job, JobId, Phase};

use crate::broker::{Publish, PublishError};
use crate::index::Place;
use crate::intake::end_again;
use crate::names::{self, job_subject, message_of};
use crate::read::ReadError;
use crate::record::{JobHead, ManifestPlace, RecordError};
use crate::shared::Shared;
use crate::step::{self, Stepped};

/// Sees to a message of an intake that was not understood: set aside, it would be unreadable to
/// newer programs, too. What one of these wrote stays where it is, for one of them to take.
pub(crate) async fn received(
    shared: &Arc<Shared>,
    message: &Message,
    error: &RecordError,
) -> Result<(), Cause> {
    if error.is_newer() {
        let subject = message.subject.as_str();
        tracing::error!(subject, %error, "a message waits for a newer program");
        return Ok(());
    }
    put_aside(shared, message, &error.to_string()).await
}

/// Makes a message of an intake the record of a job.
pub(crate) async fn put_aside(
    shared: &Arc<Shared>,
    message: &Message,
    reason: &str,
) -> Result<(), Cause> {
    let subject = message.subject.as_str();
    let named = names::addressed(subject).zip(message_of(subject));
    let Some(((tenant, next_hop), id)) = named else {
        shared.metrics.quarantined.inc();
        tracing::error!(subject, reason, "a message cannot be read nor named: it is left there");
        return Ok(());
    };
    let job = JobId { message: id, index: 0 };
    let partition = shared.partition(&next_hop);
    let subject = job_subject(partition, &tenant, &next_hop, job);
    let publish = Publish::new(subject, &format!("{job}-unreadable"), message.payload.clone())
        .grouped(partition.jobs_stream())
        .expecting(0);
    match shared.broker.publish_surely(publish).await {
        // Its owner reads it, and tells.
        Ok(_) => tracing::error!(%job, reason, "a message cannot be read: quarantined"),
        // It has a record: it came again.
        Err(PublishError::Changed) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(reply) = &message.reply {
        end_again(shared, reply.clone());
    }
    Ok(())
}

/// Quarantines a job whose record was read and not understood.
pub(crate) fn known(shared: &Shared, job: JobId, subject: &str, place: Place, reason: &str) {
    shared.metrics.quarantined.inc();
    let Some((tenant, next_hop)) = names::addressed(subject) else {
        tracing::error!(subject, reason, "a record cannot be read nor named: it is left alone");
        return;
    };
    tracing::error!(%job, reason, "the record of a job cannot be read: quarantined");
    let now = shared.now();
    let mut index = shared.index();
    if index.schedule.payload(job).is_some_and(|known| !known.is_before(place)) {
        return;
    }
    let placement = Placement::Quarantined;
    let entry = NewEntry { id: job, tenant, next_hop, size: 0, placement, payload: place };
    if !index.schedule.insert(entry, now) {
        index.schedule.replace(job, placement, place, now);
    }
}

/// What an operator is shown: no sender and no recipients, since nobody knows them.
pub(crate) fn shown(view: &View<Place>, error: &ReadError) -> Job {
    let arrival = view.id.message.arrival();
    let envelope = Envelope {
        reverse_path: ReversePath::Null,
        envid: None,
        ret: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        arrival,
        expires: arrival,
        tenant: view.tenant.clone(),
        identity: None,
        origin: Origin::Internal,
        trace_parent: None,
    };
    Job {
        id: view.id,
        envelope: Arc::new(envelope),
        next_hop: view.next_hop.clone(),
        forward: None,
        recipients: Vec::new(),
        size: view.size,
        attempts: 0,
        history: Vec::new(),
        delay_reported: false,
        phase: view.phase,
        next_attempt: view.next_attempt,
        quarantine_reason: Some(error.to_string().into()),
    }
}

/// What can be done to a job that cannot be read for `error`: nobody knows whom to send a DSN, nor
/// what to try; but it can be dropped. Its content is left to the collector of orphans.
pub(crate) async fn act(
    shared: &Arc<Shared>,
    job: JobId,
    action: Action,
    error: ReadError,
) -> Result<Option<ActResult>, ReadError> {
    let _turn = shared.turn(job).await;
    let Some(view) = shared.index().schedule.get(job) else { return Ok(None) };
    if !error.is_final(view.phase) {
        return Err(error);
    }
    let (Action::CancelSilently, Place::Record(_, sequence)) = (action, view.payload) else {
        return Ok(Some(ActResult::NotApplicable));
    };
    if view.phase == Phase::Active {
        return Ok(Some(ActResult::NotApplicable));
    }
    let manifest = ManifestPlace { stream: 0, sequence: 0 };
    let head = JobHead { tenant: view.tenant, next_hop: view.next_hop, size: 0, manifest };
    let id = format!("{job}-drop-{:016x}", rand::random::<u64>());
    let put = step::put(shared, job, &head, None, sequence, &id).await;
    match put.map_err(|error| ReadError::Unavailable(error.into()))? {
        Stepped::Gone | Stepped::Lost => {
            shared.index().schedule.remove(job);
            Ok(Some(ActResult::Done))
        }
        Stepped::At(_) | Stepped::Changed => Ok(Some(ActResult::NotApplicable)),
    }
}
