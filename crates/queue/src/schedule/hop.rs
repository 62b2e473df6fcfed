//! Next hops: their gates, and whose turn it is.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::census::Unlisted;
use super::lanes::Lanes;
use super::slab::Slab;
use crate::model::{HopKind, NextHop};

pub(super) struct Hop {
    pub(super) name: Arc<NextHop>,
    pub(super) gate: Gate,
    /// The job that was leased to find out whether the hop is still down.
    pub(super) probe: Option<u32>,
    pub(super) jobs: usize,
    pub(super) leased: usize,
    /// Jobs taken out of turn since the last turn.
    pub(super) run: usize,
    standing: Standing,
    /// Due; not leased while the gate is closed.
    pub(super) due: Lanes,
    /// Leased whatever the gate.
    pub(super) express: Lanes,
    /// (next attempt in ms, slot) of the jobs that are due at once when the hop recovers.
    pub(super) waiting: BTreeSet<(i64, u32)>,
    /// (arrival in ms, slot) of the jobs that are leased.
    pub(super) active: BTreeSet<(i64, u32)>,
    pub(super) unlisted: Unlisted,
    /// Between express and due jobs, when both may be leased.
    pub(super) express_had_turn: Turn,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Until then, in ms; afterwards one probe at a time.
    Closed(i64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Express,
    Due,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// In no ring: nothing to lease when last looked at.
    Idle,
    InTurns,
    /// As many jobs leased as one caller wanted.
    Parked,
}

impl Hop {
    fn new(name: Arc<NextHop>) -> Self {
        Self {
            name,
            gate: Gate::Open,
            probe: None,
            jobs: 0,
            leased: 0,
            run: 0,
            standing: Standing::Idle,
            due: Lanes::default(),
            express: Lanes::default(),
            waiting: BTreeSet::new(),
            active: BTreeSet::new(),
            unlisted: Unlisted::default(),
            express_had_turn: Turn::Due,
        }
    }

    pub(super) fn may_probe(&self, now_ms: i64) -> bool {
        match self.gate {
            Gate::Open => false,
            Gate::Closed(until) => until <= now_ms && self.probe.is_none(),
        }
    }

    fn has_something(&self, now_ms: i64) -> bool {
        let due = self.due.len() > 0;
        self.express.len() > 0
            || due && self.gate == Gate::Open
            || self.may_probe(now_ms) && (due || !self.waiting.is_empty())
    }
}

/// All next hops that have jobs or a closed gate.
pub(super) struct Hops {
    slab: Slab<Hop>,
    by_name: HashMap<Arc<NextHop>, u32>,
}

impl Hops {
    pub(super) fn new() -> Self {
        Self { slab: Slab::new(), by_name: HashMap::new() }
    }

    pub(super) fn find(&self, name: &NextHop) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn intern(&mut self, name: &NextHop) -> u32 {
        if let Some(index) = self.find(name) {
            return index;
        }
        let name = Arc::new(name.clone());
        let index = self.slab.insert(Hop::new(Arc::clone(&name)));
        self.by_name.insert(name, index);
        index
    }

    /// Forgets a hop without jobs and with an open gate that is in no ring.
    pub(super) fn forget_if_idle(&mut self, index: u32) {
        let Some(hop) = self.slab.get(index) else { return };
        let idle = hop.jobs == 0 && hop.gate == Gate::Open && hop.standing == Standing::Idle;
        if idle {
            let hop = self.slab.remove(index);
            self.by_name.remove(&hop.name);
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&Hop> {
        self.slab.get(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Hop> {
        self.by_name.values().map(|&index| &self.slab[index])
    }
}

impl std::ops::Index<u32> for Hops {
    type Output = Hop;

    fn index(&self, index: u32) -> &Hop {
        &self.slab[index]
    }
}

impl std::ops::IndexMut<u32> for Hops {
    fn index_mut(&mut self, index: u32) -> &mut Hop {
        &mut self.slab[index]
    }
}

/// A rotation for each kind of next hop.
pub(super) struct Rotations {
    smtp: Rotation,
    mailbox: Rotation,
}

impl Rotations {
    pub(super) fn new() -> Self {
        Self { smtp: Rotation::new(), mailbox: Rotation::new() }
    }

    pub(super) fn of(&mut self, kind: HopKind) -> &mut Rotation {
        match kind {
            HopKind::Smtp => &mut self.smtp,
            HopKind::Mailbox => &mut self.mailbox,
        }
    }
}

/// The order in which the next hops of one kind have their turns.
pub(super) struct Rotation {
    turns: VecDeque<u32>,
    parked: Vec<u32>,
    /// The smallest `per_hop` for which one of them was parked.
    parked_at: usize,
}

impl Rotation {
    fn new() -> Self {
        Self { turns: VecDeque::new(), parked: Vec::new(), parked_at: usize::MAX }
    }

    /// Gives a hop a turn if it has none: it may have something to lease.
    pub(super) fn wake(&mut self, hops: &mut Hops, index: u32) {
        if hops[index].standing == Standing::Idle {
            hops[index].standing = Standing::InTurns;
            self.turns.push_back(index);
        }
    }

    /// A job of a hop is no longer leased.
    pub(super) fn lease_ended(&mut self, hops: &mut Hops, index: u32) {
        if hops[index].standing == Standing::Parked {
            self.parked.retain(|&parked| parked != index);
            hops[index].standing = Standing::Idle;
        }
        self.wake(hops, index);
    }

    /// The next hop that may be given a lease; it goes to the end.
    pub(super) fn next(&mut self, hops: &mut Hops, per_hop: usize, now_ms: i64) -> Option<u32> {
        if per_hop > self.parked_at {
            self.unpark(hops);
        }
        while let Some(index) = self.turns.pop_front() {
            let hop = &mut hops[index];
            if !hop.has_something(now_ms) {
                hop.standing = Standing::Idle;
                hops.forget_if_idle(index);
            } else if hop.leased >= per_hop {
                hop.standing = Standing::Parked;
                self.parked.push(index);
                self.parked_at = self.parked_at.min(per_hop);
            } else {
                self.turns.push_back(index);
                return Some(index);
            }
        }
        None
    }

    /// Whether a hop other than `index` waits for its turn.
    pub(super) fn others_wait(&mut self, hops: &mut Hops, index: u32, now_ms: i64) -> bool {
        while let Some(&first) = self.turns.front() {
            if first == index && self.turns.len() == 1 {
                return false;
            }
            if first != index && hops[first].has_something(now_ms) {
                return true;
            }
            self.turns.pop_front();
            if first == index {
                self.turns.push_back(first);
            } else {
                hops[first].standing = Standing::Idle;
                hops.forget_if_idle(first);
            }
        }
        false
    }

    fn unpark(&mut self, hops: &mut Hops) {
        self.parked_at = usize::MAX;
        for index in std::mem::take(&mut self.parked) {
            hops[index].standing = Standing::InTurns;
            self.turns.push_back(index);
        }
    }
}
