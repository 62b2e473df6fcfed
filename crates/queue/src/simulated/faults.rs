//! Faults that a test orders, or that a seed does.

use std::collections::{HashMap, VecDeque};

use crate::contract::Cause;
use crate::random::Random;

/// A step that may fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    Commit,
    Lease,
    Content,
    Extend,
    Settle,
    /// List, show, act, stats.
    Ask,
}

/// How a step fails. Steps that record nothing fail with `Unavailable` whatever is ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing happened, and the caller is told so.
    Unavailable,
    /// It happened, and the caller is told that it may have.
    UnknownKept,
    /// Nothing happened, and the caller is told that it may have.
    UnknownLost,
}

/// Of a thousand steps, how many fail in each way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    pub unavailable_permille: u16,
    pub unknown_kept_permille: u16,
    pub unknown_lost_permille: u16,
}

/// The cause that a simulated fault gives.
#[derive(Debug, thiserror::Error)]
#[error("simulated fault")]
struct Simulated;

pub(super) fn cause() -> Cause {
    Box::new(Simulated)
}

pub(super) struct Faults {
    random: Random,
    rates: Rates,
    ordered: HashMap<Step, VecDeque<Fault>>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), rates: Rates::default(), ordered: HashMap::new() }
    }

    pub(super) fn fail_next(&mut self, step: Step, fault: Fault) {
        self.ordered.entry(step).or_default().push_back(fault);
    }

    pub(super) fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    pub(super) fn random(&mut self) -> u64 {
        self.random.next()
    }

    /// How this step is to fail, if it is.
    pub(super) fn draw(&mut self, step: Step) -> Option<Fault> {
        if let Some(fault) = self.ordered.get_mut(&step).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        let Rates { unavailable_permille, unknown_kept_permille, unknown_lost_permille } =
            self.rates;
        if self.rates == Rates::default() {
            return None;
        }
        let mut drawn = self.random.below(1000);
        for (permille, fault) in [
            (unavailable_permille, Fault::Unavailable),
            (unknown_kept_permille, Fault::UnknownKept),
            (unknown_lost_permille, Fault::UnknownLost),
        ] {
            if drawn < u64::from(permille) {
                return Some(fault);
            }
            drawn -= u64::from(permille);
        }
        None
    }

    /// For a step that records nothing.
    pub(super) fn ask(&mut self, step: Step) -> Result<(), Cause> {
        self.draw(step).map_or(Ok(()), |_| Err(cause()))
    }
}
