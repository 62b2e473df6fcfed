//! `cargo xtask test`: the parts of the test run, cheap ones first, each with its minutes.

mod cargo_test;
mod context;
mod parts;
mod readme;
mod summary;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::workspace::Metadata;
use context::Context;
use parts::{PARTS, Part};
use summary::{Failure, Outcome, Row, Summary};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Parts to run, in the order of `--list`; all when none is named.
    parts: Vec<String>,
    /// Also what takes hours: many more rounds, and the benches.
    #[arg(long)]
    long: bool,
    /// Names the parts and ends.
    #[arg(long)]
    list: bool,
    /// Leaves a part out, and says so.
    #[arg(long, value_name = "PART")]
    without: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        for part in &PARTS {
            let when = if part.only_long { " (--long)" } else { "" };
            println!("{:10} {}{when}", part.name, part.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (chosen, left_out) = choose(arguments)?;
    let metadata = Metadata::read()?;
    parts::check_complete()?;
    let context = Context::new(arguments.long, &metadata);
    let whole = arguments.parts.is_empty() && !arguments.long;
    let mut summary = Summary::new(left_out, whole);
    for part in chosen {
        summary.add(run_part(part, &context));
    }
    summary.set_cold(context.is_cold());
    print!("\n{summary}");
    Ok(if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The parts to run, and the names of those left out on request.
fn choose(arguments: &Arguments) -> Result<(Vec<&'static Part>, Vec<&'static str>)> {
    for name in arguments.parts.iter().chain(&arguments.without) {
        let known = PARTS.iter().any(|part| part.name == name);
        ensure!(known, "there is no part `{name}`: `cargo xtask test --list` names them");
    }
    if !arguments.without.is_empty() && std::env::var_os("CI").is_some() {
        bail!("in CI every part runs: --without is for laptops");
    }
    let named = |part: &Part| arguments.parts.iter().any(|name| name == part.name);
    let wanted = |part: &&Part| match arguments.parts.is_empty() {
        true => arguments.long || !part.only_long,
        false => named(part),
    };
    let without = |part: &Part| arguments.without.iter().any(|name| name == part.name);
    let (left_out, chosen): (Vec<&Part>, Vec<&Part>) =
        PARTS.iter().filter(wanted).partition(|part| without(part));
    Ok((chosen, left_out.iter().map(|part| part.name).collect()))
}

fn run_part(part: &'static Part, context: &Context) -> Row {
    println!("\n== {}: {}", part.name, part.about);
    let started = Instant::now();
    let result = part.needs.iter().try_for_each(|need| need.check());
    let outcome = match result.and_then(|()| (part.run)(context)) {
        Ok(outcome) => outcome,
        Err(error) => {
            println!("{} FAILED: {error:#}", part.name);
            let failure = Failure { name: part.name.to_owned(), said: vec![format!("{error:#}")] };
            Outcome { failed: 1, failures: vec![failure], ..Outcome::default() }
        }
    };
    Row { name: part.name, time: started.elapsed(), outcome }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parts: &[&str], long: bool) -> Vec<&'static str> {
        let parts = parts.iter().map(ToString::to_string).collect();
        let arguments = Arguments { parts, long, list: false, without: Vec::new() };
        choose(&arguments).unwrap().0.iter().map(|part| part.name).collect()
    }

    #[test]
    fn parts_run_in_their_own_order() {
        assert_eq!(names(&["tidy", "fmt"], false), ["fmt", "tidy"]);
    }

    #[test]
    fn long_parts_run_when_asked_for() {
        assert!(!names(&[], false).contains(&"bench"));
        assert!(names(&[], true).contains(&"bench"));
        assert_eq!(names(&["bench"], false), ["bench"]);
    }

    #[test]
    fn an_unknown_part_is_refused() {
        let parts = vec!["fmtt".to_owned()];
        let arguments = Arguments { parts, long: false, list: false, without: Vec::new() };
        assert!(choose(&arguments).is_err());
    }
}
