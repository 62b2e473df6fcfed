//! Jobs counted by next hop and by tenant.

use mail_types::{TenantId, Timestamp};

use super::Schedule;
use super::entry::State;
use super::hop::{Gate, Hop};
use crate::census::Tally;
use crate::model::NextHop;

/// Jobs that are in no list of their next hop.
#[derive(Clone, Copy, Default)]
pub(super) struct Unlisted {
    pub(super) held: u64,
    pub(super) quarantined: u64,
}

impl<T: Clone> Schedule<T> {
    /// Each next hop that has jobs, in no order. O(next hops x tenants).
    pub fn hop_tallies(&self) -> impl Iterator<Item = (&NextHop, Tally)> {
        let hops = self.hops.iter().filter(|hop| hop.jobs > 0);
        hops.map(|hop| (&*hop.name, hop.tally()))
    }

    /// Each tenant that has jobs, in no order. O(next hops x tenants).
    pub fn tenant_tallies(&self) -> Vec<(&TenantId, Tally)> {
        let mut tallies: Vec<Option<Tally>> = Vec::new();
        for (number, tenant) in self.tenants.numbered() {
            let number = number as usize;
            tallies.resize(tallies.len().max(number + 1), None);
            let Unlisted { held, quarantined } = tenant.unlisted;
            let jobs = tenant.jobs as u64;
            tallies[number] = Some(Tally { jobs, held, quarantined, ..Tally::default() });
        }
        let mut see = |tenant: u32, arrival: Option<i64>, add: &dyn Fn(&mut Tally)| {
            if let Some(Some(tally)) = tallies.get_mut(tenant as usize) {
                add(tally);
                tally.saw(arrival.map(Timestamp::from_unix_ms));
            }
        };
        for hop in self.hops.iter() {
            for (tenant, jobs, oldest) in hop.ready_lanes() {
                see(tenant, oldest, &|tally| tally.ready += jobs);
            }
            for &(arrival, slot) in &hop.active {
                see(self.jobs[slot].tenant, Some(arrival), &|tally| tally.active += 1);
            }
        }
        let named = self.tenants.numbered();
        let named = named.filter_map(|(number, tenant)| {
            let tally = tallies.get(number as usize).copied().flatten()?;
            Some((&*tenant.name, tally))
        });
        named.collect()
    }

    /// A job came to (`1`), or left (`-1`), a state in which its next hop has no list of it.
    pub(super) fn count_unlisted(&mut self, slot: u32, change: i64) {
        let entry = &self.jobs[slot];
        let unlisted =
            [&mut self.hops[entry.hop].unlisted, &mut self.tenants[entry.tenant].unlisted];
        let counts = &mut self.counts;
        match entry.state {
            State::Held => {
                counts.held = counts.held.saturating_add_signed(change);
                for of in unlisted {
                    of.held = of.held.saturating_add_signed(change);
                }
            }
            State::Quarantined => {
                counts.quarantined = counts.quarantined.saturating_add_signed(change);
                for of in unlisted {
                    of.quarantined = of.quarantined.saturating_add_signed(change);
                }
            }
            State::Waiting | State::Due | State::Express(_) | State::Active(_) => {}
        }
    }
}

impl Hop {
    fn tally(&self) -> Tally {
        let ready = self.ready_lanes().map(|(_, jobs, _)| jobs).sum();
        let oldest = self.ready_lanes().filter_map(|(_, _, oldest)| oldest);
        let oldest = oldest.chain(self.active.first().map(|&(arrival, _)| arrival)).min();
        Tally {
            jobs: self.jobs as u64,
            ready,
            active: self.active.len() as u64,
            held: self.unlisted.held,
            quarantined: self.unlisted.quarantined,
            oldest: oldest.map(Timestamp::from_unix_ms),
        }
    }

    /// For each tenant how many jobs may be leased, and when the oldest arrived, in ms.
    fn ready_lanes(&self) -> impl Iterator<Item = (u32, u64, Option<i64>)> {
        let due = (self.gate == Gate::Open).then_some(&self.due);
        due.into_iter().chain([&self.express]).flat_map(|lanes| lanes.each())
    }
}
