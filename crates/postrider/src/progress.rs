//! How far long work is, for whoever waits for it.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crate::output;

/// Between two looks of a person at a terminal.
const REDRAWN: Duration = Duration::from_millis(100);
/// Jobs between two lines in a file.
const LINE_JOBS: u64 = 5_000;
/// And the time, when there are fewer.
const LINE_TIME: Duration = Duration::from_secs(30);

/// Shows a count on stderr: on a terminal in place, else as a line now and then.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
    began: Instant,
    shown: Instant,
    count: u64,
    shown_count: u64,
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self::new(io::stderr().is_terminal(), Instant::now())
    }

    fn new(is_terminal: bool, now: Instant) -> Self {
        Self { is_terminal, began: now, shown: now, count: 0, shown_count: 0 }
    }

    /// One more is done.
    pub(crate) fn step(&mut self) {
        if let Some(text) = self.count_one(Instant::now()) {
            match self.is_terminal {
                true => output::in_place(&text),
                false => output::hint(&text),
            }
        }
    }

    /// Makes room for the result.
    pub(crate) fn end(self) {
        if self.is_terminal && self.shown_count > 0 {
            output::in_place("");
        }
    }

    /// What is to be shown now, if anything.
    fn count_one(&mut self, now: Instant) -> Option<String> {
        self.count += 1;
        let pause = now.saturating_duration_since(self.shown);
        let is_due = match self.is_terminal {
            true => pause >= REDRAWN,
            false => self.count - self.shown_count >= LINE_JOBS || pause >= LINE_TIME,
        };
        if !is_due {
            return None;
        }
        (self.shown, self.shown_count) = (now, self.count);
        let seconds = now.saturating_duration_since(self.began).as_secs();
        Some(format!("{} jobs in {seconds} s so far", self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When and what is shown of jobs that are done so many milliseconds apart.
    fn shown(is_terminal: bool, jobs: u64, apart_ms: u64) -> Vec<String> {
        let began = Instant::now();
        let mut progress = Progress::new(is_terminal, began);
        let at = |n: u64| began + Duration::from_millis(n * apart_ms);
        (1..=jobs).filter_map(|n| progress.count_one(at(n))).collect()
    }

    #[test]
    fn a_terminal_is_redrawn_and_a_file_gets_few_lines() {
        assert_eq!(shown(true, 99, 1), Vec::<String>::new(), "short work shows nothing");
        let lines = shown(true, 1_000, 1);
        assert_eq!((lines.len(), &*lines[9]), (10, "1000 jobs in 1 s so far"));
        assert_eq!(shown(false, 4_999, 1), Vec::<String>::new());
        let lines = shown(false, 12_000, 1);
        assert_eq!(lines, ["5000 jobs in 5 s so far", "10000 jobs in 10 s so far"]);
        let lines = shown(false, 100, 1_000);
        assert_eq!(lines.len(), 3, "slow work shows that it goes on: {lines:?}");
    }
}
