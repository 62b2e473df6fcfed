//! When a lane is asked for its next messages.
//!
//! A consumer costs its server a request for whatever it is asked for at once, and one that is
//! replicated a round between the servers besides. Where little comes, each message is delivered as
//! it comes; where more does, what came in a pause is taken together.

use std::time::Duration;

use tokio::time::Instant;

/// Messages of a pull at most: what is left to others for `ackWaitSeconds` by who dies.
const PULL_MAX: usize = 256;
/// Messages that are taken in hand one by one, as they come. Whoever gets so many within a pause
/// takes what has come in it together.
const AS_THEY_COME: usize = 8;
/// Between two pulls of a lane where much comes, from a server that is alone.
const PAUSE: Duration = Duration::from_millis(1);
/// From servers that replicate.
const PAUSE_REPLICATED: Duration = Duration::from_millis(10);

/// Of the pulls of one lane.
pub(crate) struct Rhythm {
    pause: Duration,
    asked: Instant,
    /// Messages since.
    came: usize,
    is_busy: bool,
}

/// What to do when nothing is asked for, and there is room.
#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    /// For up to `max` messages; `at_once`, for those that are there.
    Ask {
        max: usize,
        at_once: bool,
    },
    Pause {
        until: Instant,
    },
}

impl Rhythm {
    pub(crate) fn new(is_replicated: bool, now: Instant) -> Self {
        let pause = if is_replicated { PAUSE_REPLICATED } else { PAUSE };
        Self { pause, asked: now, came: 0, is_busy: false }
    }

    pub(crate) fn came(&mut self) {
        self.came += 1;
    }

    pub(crate) fn next(&mut self, now: Instant) -> Turn {
        let pause_ends = self.asked + self.pause;
        self.is_busy = self.came >= AS_THEY_COME && (self.is_busy || now < pause_ends);
        if self.is_busy && now < pause_ends {
            return Turn::Pause { until: pause_ends };
        }
        (self.asked, self.came) = (now, 0);
        let max = if self.is_busy { PULL_MAX } else { AS_THEY_COME };
        Turn::Ask { max, at_once: self.is_busy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AS_THEY_ARE: Turn = Turn::Ask { max: AS_THEY_COME, at_once: false };
    const TOGETHER: Turn = Turn::Ask { max: PULL_MAX, at_once: true };

    fn come(rhythm: &mut Rhythm, messages: usize) {
        (0..messages).for_each(|_| rhythm.came());
    }

    #[test]
    fn a_few_messages_are_taken_as_they_come() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(false, start);
        assert_eq!(rhythm.next(start), AS_THEY_ARE);
        come(&mut rhythm, AS_THEY_COME);
        assert_eq!(rhythm.next(start + PAUSE), AS_THEY_ARE, "so many in a whole pause are few");
        come(&mut rhythm, AS_THEY_COME - 1);
        assert_eq!(rhythm.next(start + PAUSE), AS_THEY_ARE, "the request has expired");
    }

    #[test]
    fn many_are_taken_together_after_a_pause() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(false, start);
        assert_eq!(rhythm.next(start), AS_THEY_ARE);
        come(&mut rhythm, AS_THEY_COME);
        let soon = start + PAUSE / 4;
        assert_eq!(rhythm.next(soon), Turn::Pause { until: start + PAUSE });
        come(&mut rhythm, 1);
        assert_eq!(rhythm.next(start + PAUSE), TOGETHER);
    }

    #[test]
    fn a_lane_is_busy_until_little_comes() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(false, start);
        come(&mut rhythm, AS_THEY_COME);
        rhythm.next(start);
        let mut now = start + PAUSE;
        assert_eq!(rhythm.next(now), TOGETHER);
        come(&mut rhythm, AS_THEY_COME);
        now += PAUSE;
        assert_eq!(rhythm.next(now), TOGETHER);
        come(&mut rhythm, AS_THEY_COME - 1);
        assert_eq!(rhythm.next(now + PAUSE / 4), AS_THEY_ARE, "and waits for no pause then");
    }
}
