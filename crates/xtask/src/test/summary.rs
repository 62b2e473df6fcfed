//! What the run came to: minutes and counts per part, and the budget.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// Every submission runs everything within this, on two cores.
const BUDGET_WARM: Duration = Duration::from_secs(50 * 60);
/// The same when dependencies and tools had to be built first.
const BUDGET_COLD: Duration = Duration::from_secs(70 * 60);

/// What came of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) failures: Vec<Failure>,
}

/// What failed, and what it said: told once more in the end, where nobody has to look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) name: String,
    pub(crate) said: Vec<String>,
}

impl Outcome {
    /// Of a part that is one check.
    pub(crate) const ONE: Self = Self { passed: 1, failed: 0, skipped: 0, failures: Vec::new() };
}

impl Add for Outcome {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
            failures: [self.failures, other.failures].concat(),
        }
    }
}

/// A part that has run.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) time: Duration,
    pub(crate) outcome: Outcome,
}

pub(crate) struct Summary {
    rows: Vec<Row>,
    left_out: Vec<&'static str>,
    /// Whether all parts of a submission were asked for, so that the budget holds.
    whole: bool,
    cold: bool,
}

impl Summary {
    pub(crate) const fn new(left_out: Vec<&'static str>, whole: bool) -> Self {
        Self { rows: Vec::new(), left_out, whole, cold: false }
    }

    pub(crate) fn add(&mut self, row: Row) {
        println!("== {} took {:.1} min", row.name, minutes(row.time));
        self.rows.push(row);
    }

    pub(crate) const fn set_cold(&mut self, cold: bool) {
        self.cold = cold;
    }

    pub(crate) fn is_good(&self) -> bool {
        self.outcome().failed == 0
    }

    fn time(&self) -> Duration {
        self.rows.iter().map(|row| row.time).sum()
    }

    fn budget(&self) -> Duration {
        if self.cold { BUDGET_COLD } else { BUDGET_WARM }
    }

    fn is_over_budget(&self) -> bool {
        self.whole && self.time() > self.budget()
    }

    fn outcome(&self) -> Outcome {
        let left_out = Outcome { skipped: self.left_out.len() as u64, ..Outcome::default() };
        let budget = Outcome { failed: u64::from(self.is_over_budget()), ..Outcome::default() };
        self.rows.iter().fold(left_out + budget, |sum, row| sum + row.outcome.clone())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:10} {:>7} {:>7} {:>7}", "part", "minutes", "passed", "failed")?;
        for Row { name, time, outcome } in &self.rows {
            let minutes = minutes(*time);
            writeln!(f, "{name:10} {minutes:7.1} {:7} {:7}", outcome.passed, outcome.failed)?;
        }
        for name in &self.left_out {
            writeln!(f, "{name:10} left out by --without")?;
        }
        let (time, budget) = (minutes(self.time()), minutes(self.budget()));
        let kind = if self.cold { "cold" } else { "warm" };
        match (self.whole, self.is_over_budget()) {
            (false, _) => writeln!(f, "total {time:.1} minutes")?,
            (true, false) => writeln!(f, "total {time:.1} of {budget:.0} minutes ({kind})")?,
            (true, true) => writeln!(f, "OVER BUDGET: {time:.1} of {budget:.0} minutes ({kind})")?,
        }
        let Outcome { passed, failed, skipped, failures } = self.outcome();
        for Failure { name, said } in &failures {
            writeln!(f, "FAILED {name}")?;
            said.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
        writeln!(f, "{passed} passed, {failed} failed{skipped}")
    }
}

fn minutes(time: Duration) -> f64 {
    time.as_secs_f64() / 60.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, minutes: u64, passed: u64, failed: u64) -> Row {
        let time = Duration::from_secs(minutes * 60);
        Row { name, time, outcome: Outcome { passed, failed, ..Outcome::default() } }
    }

    fn summary(rows: Vec<Row>, left_out: Vec<&'static str>, whole: bool) -> Summary {
        Summary { rows, left_out, whole, cold: false }
    }

    #[test]
    fn the_last_line_counts_everything() {
        let good = summary(vec![row("fmt", 0, 1, 0), row("tests", 3, 120, 0)], vec![], true);
        assert!(good.is_good());
        assert_eq!(good.to_string().lines().last(), Some("121 passed, 0 failed"));
        let bad = summary(vec![row("tests", 3, 120, 2)], vec!["powercut"], true);
        assert!(!bad.is_good());
        assert_eq!(bad.to_string().lines().last(), Some("120 passed, 2 failed, 1 skipped"));
        assert!(bad.to_string().contains("powercut   left out"));
    }

    #[test]
    fn what_failed_is_told_before_the_last_line() {
        let mut tests = row("tests", 3, 120, 1);
        let said = vec!["Error: no DSN".to_owned()];
        tests.outcome.failures.push(Failure { name: "bounces".to_owned(), said });
        let told = summary(vec![tests], vec![], true).to_string();
        assert!(
            told.ends_with("\nFAILED bounces\n  Error: no DSN\n120 passed, 1 failed\n"),
            "{told}"
        );
    }

    #[test]
    fn a_run_over_its_budget_fails() {
        let mut long = summary(vec![row("tests", 60, 1, 0)], vec![], true);
        assert!(!long.is_good());
        assert!(long.to_string().contains("OVER BUDGET: 60.0 of 50 minutes (warm)"));
        long.set_cold(true);
        assert!(long.is_good());
        assert!(summary(vec![row("tests", 600, 1, 0)], vec![], false).is_good());
    }
}
