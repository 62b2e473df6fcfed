//! How a message gets into an intake: the commit point.

use bytes::Bytes;
use queue::stored::StoredMessage;
use queue::{AcceptError, NewJob, SettleError};

use crate::body::{BodyWriter, HEAD};
use crate::broker::{Publish, PublishError};
use crate::frame::Section;
use crate::names::{Door, Lane};
use crate::record::{Arrival, Chunks};
use crate::shared::Shared;

/// Content up to this goes with the envelope.
pub(crate) const INLINE: usize = 256 << 10;

/// Where a message for these next hops waits.
fn lane_of(shared: &Shared, jobs: &[NewJob]) -> Lane {
    match jobs {
        [job] => Lane::Partition(shared.partition(&job.next_hop)),
        _ => Lane::Split,
    }
}

/// The message with its content as far as it is inline; all else is stored when this returns.
pub(crate) async fn arrival(
    message: StoredMessage,
    head: Bytes,
    body: &mut BodyWriter,
    shared: &Shared,
) -> Result<Arrival, PublishError> {
    let message = std::sync::Arc::new(message);
    if body.is_unsent() && head.len() + body.pending().len() <= INLINE {
        let inline = Section::whole([&head[..], body.pending()].concat().into());
        return Ok(Arrival { message, chunks: Chunks::default(), inline });
    }
    let mut chunks = body.finish().await?;
    if head.len() <= INLINE {
        return Ok(Arrival { message, chunks, inline: Section::whole(head) });
    }
    let (broker, id) = (shared.broker.clone(), message.id);
    let mut front = BodyWriter::more(broker, id, chunks.stream, HEAD);
    front.write(&head).await?;
    let mut parts = front.finish().await?.parts;
    parts.append(&mut chunks.parts);
    chunks.parts = parts;
    Ok(Arrival { message, chunks, inline: Section::NONE })
}

/// Commits a message. Repeated, it is queued once.
pub(crate) async fn post(
    shared: &Shared,
    door: Door,
    arrival: &Arrival,
) -> Result<(), PublishError> {
    let message = &arrival.message;
    let Some(first) = message.jobs.first() else {
        return Err(PublishError::Refused("a message without a next hop".into()));
    };
    let lane = lane_of(shared, &message.jobs);
    if let (Door::Outside, Lane::Partition(_)) = (door, lane) {
        let flow = (message.envelope.tenant.clone(), first.next_hop.clone());
        let turn = shared.crowds.turn(&flow).await;
        turn.map_err(|error| PublishError::Refused(error.to_string().into()))?;
    }
    let subject = door.subject(lane, &message.envelope.tenant, &first.next_hop, message.id);
    let publish = Publish::new(subject, &message.id.to_string(), arrival.encode());
    shared.broker.publish(publish.grouped(shared.stream(door, lane))).await.map(drop)
}

impl From<PublishError> for AcceptError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Full(_) => Self::Full,
            PublishError::Unknown(_) => Self::Unknown(error.into()),
            PublishError::Changed | PublishError::Refused(_) => Self::Unavailable(error.into()),
        }
    }
}

impl From<PublishError> for SettleError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Unknown(_) => Self::Unknown(error.into()),
            PublishError::Full(_) | PublishError::Changed | PublishError::Refused(_) => {
                Self::Unavailable(error.into())
            }
        }
    }
}
