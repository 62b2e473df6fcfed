//! What waits for its first attempt: pulled, kept in hand, and told to the schedule.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::Message;
use mail_types::QueueId;
use queue::JobId;
use queue::contract::Cause;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::hand::{InHand, Way};
use crate::names::{Lane, Partition, job_subject, message_of};
use crate::pull::Pull;
use crate::record::Arrival;
use crate::rhythm::{Rhythm, Turn};
use crate::shared::Shared;
use crate::{streams, unreadable};

/// What is under way to us when we stop, or have no room, comes within this.
const LATE: Duration = Duration::from_millis(50);
/// Between a pull that failed and the next.
const RETRY: Duration = Duration::from_millis(100);

/// Keeps up to a window of an intake's messages in hand, until told to stop.
///
/// It begins when the records of the partition are known: a message that is there although it has
/// a record must not be taken for one that waits.
pub(crate) async fn run(
    shared: Arc<Shared>,
    way: Way,
    mut loaded: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let work = async {
        if loaded.wait_for(|loaded| *loaded).await.is_err() {
            return;
        }
        while !stop.is_cancelled() {
            if let Err(error) = pull(&shared, way, &stop).await {
                tracing::debug!(%error, partition = %way.partition, "a pull failed");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn pull(shared: &Arc<Shared>, way: Way, stop: &CancellationToken) -> Result<(), Cause> {
    let lane = Lane::Partition(way.partition);
    let mut pull = Pull::new(shared, way.door, lane).await?;
    let old = streams::state(shared, &shared.stream(way.door, lane)).await?.last_sequence;
    let taken = take(shared, way, old, &mut pull, stop).await;
    hand_back(shared, &mut pull).await;
    taken
}

/// Takes in hand what comes, as long as there is room. `old` is the last sequence that others may
/// have had in hand before us.
async fn take(
    shared: &Arc<Shared>,
    way: Way,
    old: u64,
    pull: &mut Pull,
    stop: &CancellationToken,
) -> Result<(), Cause> {
    let mut rhythm = Rhythm::new(shared.config.is_replicated(), Instant::now());
    loop {
        let mut late = Instant::now() + LATE;
        if !pull.is_open()
            && let Some((room, room_bytes)) = room(shared, way)
        {
            match rhythm.next(Instant::now()) {
                Turn::Ask { max, at_once } => pull.ask(room.min(max), room_bytes, at_once).await?,
                Turn::Pause { until } => late = until,
            }
        }
        // Cancel-safe: a message that was not taken is still in the inbox.
        let message = tokio::select! {
            message = pull.next(late) => message?,
            () = stop.cancelled() => return Ok(()),
        };
        if let Some(message) = message {
            rhythm.came();
            if let Err(error) = receive(shared, way, old, &message).await {
                not_now(shared, &message).await;
                return Err(error);
            }
        }
    }
}

/// What has been asked for and still comes is for the next owner.
async fn hand_back(shared: &Shared, pull: &mut Pull) {
    let late = Instant::now() + LATE;
    while Instant::now() < late {
        match timeout_at(late, pull.next(late)).await {
            Ok(Ok(Some(message))) => not_now(shared, &message).await,
            // A request may be said to have ended before its last messages come.
            Ok(Ok(None)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Has a message delivered again, at once. Unheard, that is done once `ackWaitSeconds` are over.
async fn not_now(shared: &Shared, message: &Message) {
    if let Some(reply) = &message.reply
        && let Err(error) = shared.broker.client.publish(reply.clone(), "-NAK".into()).await
    {
        tracing::debug!(%error, "cannot hand a message back");
    }
}

/// How many messages, and octets, may be taken in hand; `None` when none.
fn room(shared: &Shared, way: Way) -> Option<(usize, usize)> {
    let filling = shared.index().hand.filling(way);
    let room = shared.config.window.saturating_sub(filling.messages);
    let room_bytes = shared.config.window_bytes.saturating_sub(filling.bytes);
    let room_bytes = usize::try_from(room_bytes).unwrap_or(usize::MAX);
    (room > 0 && room_bytes > 0).then_some((room, room_bytes))
}

async fn receive(shared: &Arc<Shared>, way: Way, old: u64, message: &Message) -> Result<(), Cause> {
    let Some(reply) = message.reply.clone() else { return Ok(()) };
    let info = message.info()?;
    let (is_repeat, sequence) = (info.delivered > 1, info.stream_sequence);
    if is_repeat {
        shared.metrics.redelivered.inc();
    }
    let Some(id) = message_of(&message.subject) else {
        return unreadable::put_aside(shared, message, "its subject names no message").await;
    };
    if !is_new(shared, id, &reply) {
        return Ok(());
    }
    let arrival = match Arrival::decode(&message.payload) {
        Ok(arrival) => Arc::new(arrival),
        Err(error) => return unreadable::received(shared, message, &error).await,
    };
    // A server that crashed may have forgotten how often it delivered a message.
    if (is_repeat || sequence <= old) && has_moved_on(shared, way.partition, &arrival).await? {
        end_again(shared, reply);
        return Ok(());
    }
    let subject = message.subject.clone();
    let in_hand = InHand { arrival, way, subject, reply, copied: None };
    shared.index().insert_arrival(in_hand, shared.now());
    shared.changed.notify_waiters();
    Ok(())
}

/// Whether a message is neither in hand nor has ended here already.
fn is_new(shared: &Arc<Shared>, id: QueueId, reply: &Subject) -> bool {
    let mut index = shared.index();
    if index.came_again(id, reply) {
        return false;
    }
    let is_brought_back = index.is_brought_back(id);
    drop(index);
    if is_brought_back {
        end_again(shared, reply.clone());
    }
    !is_brought_back
}

/// Ends a message that lives elsewhere. Unheard, it comes again.
pub(crate) fn end_again(shared: &Arc<Shared>, reply: Subject) {
    let broker = shared.broker.clone();
    shared.tasks.spawn(async move { broker.ack(&reply).await });
}

/// Whether a message that came again has a record, or the mark of its end.
async fn has_moved_on(
    shared: &Shared,
    partition: Partition,
    arrival: &Arrival,
) -> Result<bool, Cause> {
    let message = &arrival.message;
    let Some(job) = message.jobs.first() else { return Ok(false) };
    let id = JobId { message: message.id, index: 0 };
    let subject = job_subject(partition, &message.envelope.tenant, &job.next_hop, id);
    Ok(shared.broker.last(&partition.jobs_stream(), &subject).await?.is_some())
}

/// Whether a message in hand is not in its intake any more: another, who had it before us or after,
/// has ended it.
pub(crate) async fn has_ended(shared: &Shared, message: QueueId) -> Result<bool, Cause> {
    let place = shared.index().hand.get(message).map(|it| (it.way, it.subject.clone()));
    let Some((way, subject)) = place else { return Ok(false) };
    Ok(!is_there(shared, way, &subject).await?)
}

/// Whether a message is in its intake, as the leader knows it.
pub(crate) async fn is_there(shared: &Shared, way: Way, subject: &str) -> Result<bool, Cause> {
    let stream = shared.stream(way.door, Lane::Partition(way.partition));
    shared.broker.has(&stream, subject).await
}

/// Tells the servers that what is in hand is being worked on, until the queue is closed.
pub(crate) async fn keep_in_hand(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.config.ack_wait() / 3);
    let work = async {
        loop {
            ticks.tick().await;
            let replies: Vec<_> =
                shared.index().hand.messages().map(|in_hand| in_hand.reply.clone()).collect();
            for reply in replies {
                if let Err(error) = shared.broker.client.publish(reply, "+WPI".into()).await {
                    tracing::debug!(%error, "cannot say that a message is in hand");
                }
            }
        }
    };
    shared.closed.run_until_cancelled(work).await;
}
