//! `cargo test`, its output shown and its results counted.

use std::ffi::OsString;

use anyhow::Result;

use super::summary::Counts;
use crate::command;

/// Runs `cargo test ARGUMENTS -- TEST_ARGUMENTS` with `environment` added.
pub(super) fn run(
    environment: &[(&str, OsString)],
    arguments: &[&str],
    test_arguments: &[&str],
) -> Result<Counts> {
    let mut cargo = command::cargo();
    cargo.envs(environment.iter().map(|(name, value)| (name, value)));
    cargo.args(["test", "--locked", "--release", "--no-fail-fast"]).args(arguments);
    cargo.arg("--").args(test_arguments);
    let mut counts = Counts::default();
    let status = command::run_watched(&mut cargo, |line| {
        counts = counts + result_of(line).unwrap_or_default();
    })?;
    if !status.success() && counts.failed == 0 {
        println!("`{}` failed ({status})", command::describe(&cargo));
        counts.failed = 1;
    }
    Ok(counts)
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`
fn result_of(line: &str) -> Option<Counts> {
    let result = line.strip_prefix("test result: ")?;
    let of = |what: &str| {
        let (before, _) = result.split_once(what)?;
        before.rsplit([' ', ';', '.']).find(|word| !word.is_empty())?.parse().ok()
    };
    Some(Counts { passed: of(" passed")?, failed: of(" failed")?, skipped: of(" ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_closing_line_of_a_test_program() {
        let line = "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 0 filtered \
                    out; finished in 0.01s";
        let counts = Counts { passed: 12, failed: 3, skipped: 4 };
        assert_eq!(result_of(line), Some(counts));
        assert_eq!(result_of("test smtp::quits ... ok"), None);
        assert_eq!(result_of("test result: garbage"), None);
    }
}
