//! A sink of whims: it defers and goes away at random moments, until it is healed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::scenario;
use crate::sink::{Moment, Sink, Whim, Whims};

/// Of a thousand moments, in how many the sink has a whim.
const PERMILLE: u32 = 25;

/// What the sink does, by its own account.
pub struct Whimsical {
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    permille: u32,
    done: BTreeMap<(Moment, Whim), usize>,
}

impl Whimsical {
    /// A sink that also has the verdict of [`scenario::verdict`] on recipients.
    pub async fn start(seed: u64) -> Result<(Sink, Arc<Self>)> {
        let rng = StdRng::seed_from_u64(seed);
        let state = State { rng, permille: PERMILLE, done: BTreeMap::new() };
        let whimsical = Arc::new(Self { state: Mutex::new(state) });
        let asked = Arc::clone(&whimsical);
        let whims: Whims = Arc::new(move |moment| asked.draw(moment));
        let sink = Sink::with_whims("127.0.0.1:0".parse()?, scenario::verdict(), whims);
        Ok((sink.await?, whimsical))
    }

    /// No more whims.
    pub fn heal(&self) {
        self.lock().permille = 0;
    }

    /// How often it did what.
    pub fn done(&self) -> BTreeMap<(Moment, Whim), usize> {
        self.lock().done.clone()
    }

    fn draw(&self, moment: Moment) -> Option<Whim> {
        let mut state = self.lock();
        let State { rng, permille, done } = &mut *state;
        if rng.random_range(0..1000) >= *permille {
            return None;
        }
        let leaves = rng.random();
        let whim = if leaves { Whim::Disconnect } else { deferral(moment)? };
        *done.entry((moment, whim)).or_default() += 1;
        Some(whim)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no session panics holding it")
    }
}

/// A transient reply that is good for the moment, if any is.
fn deferral(moment: Moment) -> Option<Whim> {
    match moment {
        Moment::Greeting => Some(Whim::Say("421 4.3.2 too busy")),
        Moment::Hello => Some(Whim::Say("451 4.3.0 not now")),
        Moment::Mail => Some(Whim::Say("451 4.7.1 come back later")),
        Moment::Rcpt => Some(Whim::Say("450 4.2.0 mailbox busy")),
        Moment::Data => Some(Whim::Say("451 4.3.0 no room in the spool")),
        Moment::FinalDot => Some(Whim::Say("451 4.6.0 the filter does not answer")),
        Moment::Content | Moment::Kept | Moment::Answered => Some(Whim::Disconnect),
    }
}
