//! Our partitions counted, from memory alone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use queue::census::{Census, Named, Share};

use crate::end;
use crate::index::Index;
use crate::names::{Lane, Partition};
use crate::shared::Shared;

/// What is certainly ours; of the rest others tell.
pub(crate) fn take(shared: &Arc<Shared>) -> Census {
    let ours = shared.owned();
    let mut census = Census::default();
    let mut shares = {
        let mut index = shared.index();
        index.schedule.advance(shared.now());
        let shares = count(shared, &index, &ours, &mut census);
        let counts = index.schedule.counts();
        (census.messages, census.content_bytes) = (counts.messages, counts.content_bytes);
        census.tenants = Named::most(index.schedule.tenant_tallies());
        shares
    };
    end::sweep(shared);
    add_backlog(shared, &ours, &mut shares);
    let named = shares.into_iter().map(|(lane, share)| (lane.to_string(), share));
    census.shares = named.collect();
    if ours.contains(&Partition::SPEAKER) {
        census.store_bytes = shared.backlog().store_bytes;
        census.store_limit_bytes = Some(shared.config.intake_bytes);
    }
    census
}

type Shares = BTreeMap<Lane, Share>;

fn count(shared: &Shared, index: &Index, ours: &HashSet<Partition>, census: &mut Census) -> Shares {
    let empty = |partition: &Partition| (Lane::Partition(*partition), Share::default());
    let mut shares: Shares = ours.iter().map(empty).collect();
    let mut next_hops = Vec::new();
    for (hop, tally) in index.schedule.hop_tallies() {
        let lane = Lane::Partition(shared.partition(hop));
        let Some(share) = shares.get_mut(&lane) else { continue };
        share.tally.add(&tally);
        share.parked += tally.ready;
        next_hops.push((hop, tally));
    }
    census.next_hops = Named::most(next_hops);
    // What is ready and not in hand from an intake is parked.
    for in_hand in index.hand.messages() {
        let Some(share) = shares.get_mut(&Lane::Partition(in_hand.way.partition)) else { continue };
        let job = queue::JobId { message: in_hand.arrival.message.id, index: 0 };
        share.parked -= u64::from(share.parked > 0 && index.schedule.is_ready(job));
    }
    shares
}

fn add_backlog(shared: &Shared, ours: &HashSet<Partition>, shares: &mut Shares) {
    let backlog = shared.backlog();
    for (lane, waiting) in &backlog.lanes {
        let is_ours = match lane {
            Lane::Partition(partition) => ours.contains(partition),
            Lane::Split => ours.contains(&Partition::SPEAKER),
        };
        if is_ours {
            let share = shares.entry(*lane).or_default();
            share.backlog = waiting.messages;
            share.tally.saw(waiting.oldest);
        }
    }
}
