//! Who sends faster than can be worked off waits for the 250, and nobody else.
//!
//! ```text
//! owner    window nearly full ── who has most in it, how long each pauses ──▶ all who accept mail
//! ingress  a message of theirs, its content stored ── one after the other, a pause each ──▶ intake
//! ```
//!
//! An intake is a line: what comes in faster than its owner takes it in hand is waited behind by
//! all, and parking a message costs more than accepting it. The fuller the window the longer the
//! pauses, so that it never is full, and a message of anybody else is taken in hand at once.
//!
//! Not durable, and some 100 ms old. The end of a crowd is told once; whoever does not hear of it
//! pauses no more when nothing has been told for a while.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail_types::TenantId;
use queue::NextHop;
use queue::contract::Cause;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};

use crate::hand::Way;
use crate::names::Door;
use crate::park;
use crate::shared::Shared;
use crate::usage::{self, Told};

/// How often the windows are looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// What was told counts so long: an owner that is short of CPU is late.
const LASTS: Duration = Duration::from_secs(2);
/// Of those who have most so many are told of: they fill a window.
const TOLD_MAX: usize = 256;
/// A pause when parking begins; it doubles with each eleventh of the way to a full window, up to
/// two seconds.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const DOUBLINGS: u32 = 11;
/// Who waits longer in the line of a crowd is refused for now.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Mail of one tenant for one next hop.
pub(crate) type Flow = (TenantId, NextHop);

/// Those that a process has too much of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pause_ms: u64,
    flows: Vec<Flow>,
}

/// What has been heard, and the lines of those who wait here.
#[derive(Debug, Default)]
pub(crate) struct Crowds {
    heard: Mutex<HashMap<String, Heard>>,
    lines: Mutex<HashMap<Flow, Arc<tokio::sync::Mutex<()>>>>,
}

/// What a process told last.
#[derive(Debug)]
struct Heard {
    at: Instant,
    crowds: Vec<(Duration, HashSet<Flow>)>,
}

impl Heard {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < LASTS
    }
}

/// The line of a crowd does not get shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more mail for this destination than can be worked off")]
pub(crate) struct TooMany;

impl Crowds {
    pub(crate) fn hear(&self, process: String, crowds: Vec<Crowd>) {
        let mut heard = lock(&self.heard);
        heard.retain(|_, heard| heard.is_fresh());
        let crowds = crowds.into_iter().map(|crowd| {
            (Duration::from_millis(crowd.pause_ms), crowd.flows.into_iter().collect())
        });
        heard.insert(process, Heard { at: Instant::now(), crowds: crowds.collect() });
    }

    /// Returns when it is the turn of a message: at once unless its flow is a crowd.
    pub(crate) async fn turn(&self, flow: &Flow) -> Result<(), TooMany> {
        if self.pause(flow).is_none() {
            return Ok(());
        }
        let line = Arc::clone(lock(&self.lines).entry(flow.clone()).or_default());
        let turn = timeout(WAIT_MAX, line.lock()).await;
        if turn.is_ok()
            && let Some(pause) = self.pause(flow)
        {
            sleep(pause).await;
        }
        let result = turn.map(drop).map_err(|_| TooMany);
        drop(line);
        lock(&self.lines).retain(|_, line| Arc::strong_count(line) > 1);
        result
    }

    fn pause(&self, flow: &Flow) -> Option<Duration> {
        let heard = lock(&self.heard);
        let fresh = heard.values().filter(|heard| heard.is_fresh());
        let crowds = fresh.flat_map(|heard| &heard.crowds);
        crowds.filter(|(_, flows)| flows.contains(flow)).map(|(pause, _)| *pause).max()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells of the crowds in our windows until the queue is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        let mut told = 0;
        loop {
            ticks.tick().await;
            let crowds = crowds(&shared);
            let count = crowds.len();
            if (told > 0 || count > 0)
                && let Err(error) = tell(&shared, crowds).await
            {
                tracing::debug!(%error, "nobody is told of a crowd");
            }
            told = count;
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

/// Those of all our windows.
fn crowds(shared: &Shared) -> Vec<Crowd> {
    let partitions: Vec<_> = shared.tenures().keys().copied().collect();
    let ways = partitions.into_iter().map(|partition| Way { partition, door: Door::Outside });
    ways.filter_map(|way| crowd(shared, way)).collect()
}

async fn tell(shared: &Shared, crowds: Vec<Crowd>) -> Result<(), Cause> {
    shared.crowds.hear(shared.writer.clone(), crowds.clone());
    usage::say(shared, &Told::Crowds { process: shared.writer.clone(), crowds }).await
}

/// Who fills the window of an intake, while parking does not keep it free.
fn crowd(shared: &Shared, way: Way) -> Option<Crowd> {
    let window = shared.config.window;
    let index = shared.index();
    let pause = pause(index.hand.filling(way).messages, window)?;
    let flows = park::crowd(&index, way, window).into_iter().take(TOLD_MAX).collect();
    let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Some(Crowd { pause_ms, flows })
}

/// How long a crowd pauses with so many in hand; `None` while the window is not nearly full.
fn pause(in_hand: usize, window: usize) -> Option<Duration> {
    let (full, begins) = (window, park::begins(window));
    let above = in_hand.checked_sub(begins)?.min(full - begins);
    let share = above as f64 / (full - begins).max(1) as f64;
    Some(PAUSE_MIN.mul_f64((share * f64::from(DOUBLINGS)).exp2()))
}

#[cfg(test)]
mod tests {
    use mail_types::Host;

    use super::*;

    #[test]
    fn pauses_grow_with_the_window() {
        assert_eq!(pause(1499, 2000), None);
        assert_eq!(pause(1500, 2000), Some(PAUSE_MIN));
        assert_eq!(pause(2000, 2000), Some(Duration::from_millis(2048)));
        assert_eq!(pause(5000, 2000), pause(2000, 2000));
        let half = pause(1750, 2000).unwrap().as_millis();
        assert!((40..50).contains(&half), "{half} ms");
        assert_eq!(pause(1, 1), pause(2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_crowd_waits_and_one_after_the_other() {
        let flow = |name: &str| (TenantId::new("t"), NextHop::smtp(&Host::parse(name).unwrap()));
        let (loud, quiet) = (flow("loud.test"), flow("quiet.test"));
        let crowds = Crowds::default();
        let crowd = Crowd { pause_ms: 100, flows: vec![loud.clone()] };
        crowds.hear("p".into(), vec![crowd]);
        let start = Instant::now();
        crowds.turn(&quiet).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        let turns = (0..3).map(|_| crowds.turn(&loud));
        futures::future::try_join_all(turns).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(300));
        assert!(lock(&crowds.lines).is_empty());
        // What was told is old.
        sleep(LASTS).await;
        let start = Instant::now();
        crowds.turn(&loud).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
