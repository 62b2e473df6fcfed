//! Jobs of one next hop that wait for a worker: a lane for each tenant, and the lanes take turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Deficit round robin: a turn is worth one unit of cost.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<u32, Lane>,
    /// Every key of `lanes` once; those in front are next.
    turns: VecDeque<u32>,
    len: usize,
}

#[derive(Default)]
struct Lane {
    /// (arrival in ms, slot): the oldest message first.
    jobs: BTreeSet<(i64, u32)>,
    /// Below zero after a large job, until as many turns have passed.
    credit: i32,
}

impl Lanes {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, tenant: u32, arrival_ms: i64, slot: u32) {
        let lane = self.lanes.entry(tenant).or_insert_with(|| {
            self.turns.push_back(tenant);
            Lane::default()
        });
        if lane.jobs.insert((arrival_ms, slot)) {
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, tenant: u32, arrival_ms: i64, slot: u32) {
        let lane = self.lanes.get_mut(&tenant);
        if lane.is_some_and(|lane| lane.jobs.remove(&(arrival_ms, slot))) {
            self.len -= 1;
        }
        if self.len == 0 {
            self.lanes.clear();
            self.turns.clear();
        }
    }

    /// The job whose turn it is. It stays here until removed; its lane has paid for it.
    pub(super) fn next(&mut self, cost: impl Fn(u32) -> i32) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        loop {
            let tenant = self.turns.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&tenant) else { continue };
            let Some(&(_, slot)) = lane.jobs.first() else {
                self.lanes.remove(&tenant);
                continue;
            };
            self.turns.push_back(tenant);
            if lane.credit < 0 {
                lane.credit += 1;
            }
            if lane.credit == 0 {
                lane.credit -= cost(slot);
                return Some(slot);
            }
        }
    }

    /// Each tenant with its jobs, and the arrival of the oldest message of them in ms.
    pub(super) fn each(&self) -> impl Iterator<Item = (u32, u64, Option<i64>)> {
        self.lanes.iter().map(|(&tenant, lane)| {
            let oldest = lane.jobs.first().map(|&(arrival, _)| arrival);
            (tenant, lane.jobs.len() as u64, oldest)
        })
    }

    /// Arrival of the oldest message in any lane, in ms.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.lanes.values().filter_map(|lane| lane.jobs.first()).map(|&(arrival, _)| arrival).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(lanes: &mut Lanes, cost: impl Fn(u32) -> i32) -> Option<u32> {
        let slot = lanes.next(cost)?;
        lanes.remove(slot / 100, i64::from(slot), slot);
        Some(slot)
    }

    #[test]
    fn tenants_take_turns() {
        let mut lanes = Lanes::default();
        for slot in [100, 101, 102, 200, 201, 300] {
            lanes.insert(slot / 100, i64::from(slot), slot);
        }
        let order: Vec<u32> = std::iter::from_fn(|| take(&mut lanes, |_| 1)).collect();
        assert_eq!(order, [100, 200, 300, 101, 201, 102]);
        assert_eq!((lanes.len(), lanes.oldest()), (0, None));
    }

    #[test]
    fn a_large_job_costs_turns() {
        let mut lanes = Lanes::default();
        for slot in [100, 101, 200, 201, 202, 203, 204] {
            lanes.insert(slot / 100, i64::from(slot), slot);
        }
        let cost = |slot| if slot < 200 { 3 } else { 1 };
        let order: Vec<u32> = std::iter::from_fn(|| take(&mut lanes, cost)).collect();
        assert_eq!(order, [100, 200, 201, 202, 101, 203, 204]);
    }
}
