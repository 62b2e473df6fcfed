//! What waits in intakes and is not in hand yet, and how large the streams are.
//!
//! Asked of the servers seldom, and only by the owner of a partition: each message is counted once
//! in the cluster, and an idle process asks for nothing. Numbers of a partition that is not ours
//! any more are not shown; those that no server told anew are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mail_types::Timestamp;
use queue::contract::Cause;
use tokio::time::MissedTickBehavior;

use crate::hand::Way;
use crate::index::Index;
use crate::names::{Door, Lane, Partition};
use crate::shared::Shared;
use crate::streams;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// What was seen last.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) lanes: HashMap<Lane, Waiting>,
    /// Octets of all streams, on one server.
    pub(crate) store_bytes: Option<u64>,
}

/// Messages that nobody has in hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) messages: u64,
    /// About when the oldest came.
    pub(crate) oldest: Option<Timestamp>,
}

/// Looks until the queue is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            ticks.tick().await;
            if let Err(error) = look(&shared).await {
                tracing::debug!(%error, "what waits in intakes is not known");
            }
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn look(shared: &Shared) -> Result<(), Cause> {
    let ours = shared.owned();
    let mut lanes: Vec<_> = ours.iter().map(|partition| Lane::Partition(*partition)).collect();
    let speaks = ours.contains(&Partition::SPEAKER);
    if speaks {
        lanes.push(Lane::Split);
    }
    let mut seen = Backlog::default();
    for lane in lanes {
        seen.lanes.insert(lane, waiting(shared, lane).await?);
    }
    if speaks {
        seen.store_bytes = Some(streams::size(shared).await?);
    }
    *shared.backlog() = seen;
    Ok(())
}

async fn waiting(shared: &Shared, lane: Lane) -> Result<Waiting, Cause> {
    let mut waiting = Waiting::default();
    for door in [Door::Outside, Door::Reserve] {
        let there = streams::undone(shared, door, lane).await?;
        let messages = there.saturating_sub(shared.index().known(door, lane));
        if messages > 0 && waiting.oldest.is_none() {
            waiting.oldest = streams::oldest(shared, &shared.stream(door, lane)).await?;
        }
        waiting.messages += messages;
    }
    Ok(waiting)
}

impl Index {
    /// Messages that servers count as waiting and that are in hand, or whose end is on its way.
    fn known(&self, door: Door, lane: Lane) -> u64 {
        let Lane::Partition(partition) = lane else { return 0 };
        let way = Way { partition, door };
        let ending = self.ending().filter(|ending| ending.way == way && !ending.is_heard);
        (self.hand.filling(way).messages + ending.count()) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mail_types::TenantId;
    use mail_types::{BodyType, Envelope, Host, Mailbox, Origin, QueueId, Recipient, ReversePath};
    use queue::schedule::Schedule;
    use queue::stored::StoredMessage;
    use queue::{HopKind, NewJob, NextHop};

    use super::*;
    use crate::frame::Section;
    use crate::hand::InHand;
    use crate::record::{Arrival, Chunks};

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

    fn in_hand(way: Way) -> InHand {
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            envid: None,
            ret: None,
            body: BodyType::EightBitMime,
            smtputf8: false,
            arrival: NOW,
            expires: NOW + Duration::from_secs(3600),
            tenant: TenantId::new("t"),
            identity: None,
            origin: Origin::Internal,
            trace_parent: None,
        };
        let recipient = Recipient::new(Mailbox::parse("u@there.test").unwrap());
        let next_hop = NextHop::smtp(&Host::Domain("there.test".parse().unwrap()));
        let message = StoredMessage {
            id: QueueId::new(NOW, 1),
            envelope: Arc::new(envelope),
            jobs: vec![NewJob::new(next_hop, vec![recipient])],
            prefix_bytes: 0,
            header_bytes: 0,
            body_bytes: 0,
        };
        let (message, chunks) = (Arc::new(message), Chunks::default());
        let arrival = Arc::new(Arrival { message, chunks, inline: Section::NONE });
        InHand { arrival, way, subject: "in".into(), reply: "once".into(), copied: None }
    }

    /// Large messages are remembered until the leader says that they are gone, which takes minutes
    /// when it is silent: what came meanwhile is work all the same.
    #[test]
    fn an_end_that_a_server_has_heard_of_hides_no_other_message() {
        let mut index = Index::new(Schedule::new(Duration::from_secs(60)), Duration::from_secs(60));
        let partition = Partition::all(HopKind::Smtp, 1).next().unwrap();
        let lane = Lane::Partition(partition);
        let known = |index: &Index| index.known(Door::Outside, lane);
        let way = Way { partition, door: Door::Outside };
        let in_hand = in_hand(way);
        let (id, reply) = (in_hand.arrival.message.id, in_hand.reply.clone());
        index.insert_arrival(in_hand, NOW);
        assert_eq!(known(&index), 1, "in hand");
        index.end(id).unwrap();
        assert_eq!(known(&index), 1, "on its way");
        index.heard(id, &reply);
        assert_eq!(known(&index), 0, "heard");
        assert!(index.came_again(id, &"again".into()));
        index.heard(id, &reply);
        assert_eq!(known(&index), 1, "it came again: that end is on its way");
        index.heard(id, &"again".into());
        assert_eq!(known(&index), 0, "heard again");
    }
}
