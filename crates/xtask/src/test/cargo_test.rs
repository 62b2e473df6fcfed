//! `cargo test`, its output shown and its results counted.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use super::summary::{Failure, Outcome};
use crate::command;

/// Of what a test that failed has said, the last lines.
const SAID_MAX: usize = 40;

/// Runs `cargo test ARGUMENTS -- TEST_ARGUMENTS` with `environment` added.
pub(super) fn run(
    environment: &[(&str, OsString)],
    arguments: &[&str],
    test_arguments: &[&str],
) -> Result<Outcome> {
    run_by(command::cargo(), environment, arguments, test_arguments)
}

/// The same by a command to which arguments of cargo are added.
pub(super) fn run_by(
    mut cargo: Command,
    environment: &[(&str, OsString)],
    arguments: &[&str],
    test_arguments: &[&str],
) -> Result<Outcome> {
    cargo.envs(environment.iter().map(|(name, value)| (name, value)));
    cargo.args(["test", "--locked", "--release", "--no-fail-fast"]).args(arguments);
    cargo.arg("--").args(test_arguments);
    // What a test says of its failure fits a screen, and its place is in it.
    cargo.env("RUST_BACKTRACE", "0");
    let mut reader = Reader::default();
    let status = command::run_watched(&mut cargo, |line| reader.read(line))?;
    let mut outcome = reader.outcome;
    if !status.success() && outcome.failed == 0 {
        let name = format!("`{}` ({status})", command::describe(&cargo));
        outcome.failures.push(Failure { name, said: reader.said.into() });
        outcome.failed = 1;
    }
    Ok(outcome)
}

/// Reads what test programs print of their tests: as it comes (`--nocapture`), or in the end.
#[derive(Default)]
struct Reader {
    outcome: Outcome,
    /// What runs, or is told of in the end.
    name: Option<String>,
    is_told_of: bool,
    said: VecDeque<String>,
}

impl Reader {
    fn read(&mut self, line: &str) {
        if line.contains("process didn't exit successfully") && line.contains("(signal:") {
            // It says no result.
            self.name = Some(line.trim().to_owned());
            self.outcome.failed += 1;
            return self.fail();
        }
        if let Some(result) = result_of(line) {
            self.outcome = std::mem::take(&mut self.outcome) + result;
        }
        let told_of = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----"));
        let runs = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
        if self.is_told_of && (told_of.is_some() || line == "failures:") {
            self.fail();
        }
        match (told_of, runs) {
            (Some(name), _) => self.begin(name, true),
            (None, Some((name, said))) => {
                self.begin(name, false);
                self.say(said);
            }
            (None, None) if line == "FAILED" => self.fail(),
            (None, None) => self.say(line),
        }
    }

    fn begin(&mut self, name: &str, is_told_of: bool) {
        self.name = Some(name.to_owned());
        self.is_told_of = is_told_of;
        self.said.clear();
    }

    fn say(&mut self, line: &str) {
        if !line.is_empty() {
            self.said.push_back(line.to_owned());
        }
        if self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
    }

    fn fail(&mut self) {
        self.is_told_of = false;
        let said = std::mem::take(&mut self.said).into();
        self.outcome.failures.extend(self.name.take().map(|name| Failure { name, said }));
    }
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`
fn result_of(line: &str) -> Option<Outcome> {
    let result = line.strip_prefix("test result: ")?;
    let of = |what: &str| {
        let (before, _) = result.split_once(what)?;
        before.rsplit([' ', ';', '.']).find(|word| !word.is_empty())?.parse().ok()
    };
    Some(Outcome {
        passed: of(" passed")?,
        failed: of(" failed")?,
        skipped: of(" ignored")?,
        failures: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_closing_line_of_a_test_program() {
        let line = "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 0 filtered \
                    out; finished in 0.01s";
        let outcome = Outcome { passed: 12, failed: 3, skipped: 4, failures: Vec::new() };
        assert_eq!(result_of(line), Some(outcome));
        assert_eq!(result_of("test smtp::quits ... ok"), None);
        assert_eq!(result_of("test result: garbage"), None);
    }

    fn failures(output: &str) -> Vec<(String, Vec<String>)> {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.read(line));
        let failures = reader.outcome.failures.into_iter();
        failures.map(|Failure { name, said }| (name, said)).collect()
    }

    #[test]
    fn keeps_what_was_shown_of_a_failure() {
        let output = "test first ... seed 5\nround 1\nok\ntest second ... seed 6\n\nError: no \
                      DSN\nFAILED\ntest third ... ok\n\nfailures:\n\nfailures:\n    second\n";
        let said = ["seed 6", "Error: no DSN"].map(str::to_owned).to_vec();
        assert_eq!(failures(output), [("second".to_owned(), said)]);
    }

    #[test]
    fn keeps_what_was_told_of_failures_in_the_end() {
        let output = "test first ... FAILED\ntest second ... FAILED\n\nfailures:\n\n---- first \
                      stdout ----\nError: one\n\n---- second stdout ----\nError: two\n\n\
                      \nfailures:\n    first\n    second\n\ntest result: FAILED. 0 passed; 2 \
                      failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let of = |name: &str, said: &str| (name.to_owned(), vec![said.to_owned()]);
        assert_eq!(failures(output), [of("first", "Error: one"), of("second", "Error: two")]);
    }

    #[test]
    fn a_program_that_crashes_has_failed() {
        let output = "test first ... free(): invalid pointer\n\nCaused by:\n  process didn't exit \
                      successfully: `x` (signal: 6, SIGABRT: process abort signal)\n";
        let [(name, said)] = &failures(output)[..] else { panic!("one failure") };
        assert!(name.contains("(signal: 6"), "{name}");
        assert_eq!(said[0], "free(): invalid pointer");
    }

    #[test]
    fn keeps_the_last_lines_only() {
        let lines: String = (0..100).map(|line| format!("{line}\n")).collect();
        let found = failures(&format!("test first ... {lines}FAILED\n"));
        assert_eq!(found[0].1.len(), SAID_MAX);
        assert_eq!(found[0].1.last().unwrap(), "99");
    }
}
