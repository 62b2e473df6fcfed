//! `cargo xtask bench --jetstream`: what the roles make of the NATS servers under them.
//!
//! One server, then three that replicate, all with `sync_interval: always`. In every round the
//! same servers serve a raw publisher, an ingress alone, and an ingress and a worker; the order
//! turns each time, and a figure counts as a part of the raw rate of its own round. Each step
//! starts with new streams. Clients, servers, roles and sink share the machine: the raw publisher
//! has most of it, a mail's whole way the least.

mod raw;
mod report;
mod roles;
mod servers;
mod step;
mod streams;

use std::path::Path;

use anyhow::{Result, ensure};

use super::Arguments;
use super::measure::Figures;
use super::sink::Sink;
use report::Rounds;
use servers::Servers;
use step::{Bench, Step};

/// The queue's own number, by default.
const PARTITIONS: u64 = 4;

/// Runs the rounds of both layouts, or of the one that is asked for.
pub(super) fn run(sink: &Sink, dir: &Path, arguments: &Arguments) -> Result<Rounds> {
    let mut all = Rounds::new(super::postrider::version()?, servers::version()?);
    for replicas in layouts(arguments.replicas)? {
        let servers = Servers::start(&dir.join("jetstream"), replicas)?;
        let bench = Bench { sink, dir, servers: &servers, messages: arguments.messages };
        for round in 0..arguments.runs.max(1) {
            match run_round(&bench, round) {
                Ok(steps) => all.add(replicas, steps),
                Err(error) => {
                    println!("R{replicas}: {error:#}");
                    all.failures.push(format!("R{replicas}, round {}: {error:#}", round + 1));
                }
            }
        }
    }
    Ok(all)
}

/// How many copies there are in each layout that is measured.
fn layouts(only: Option<u16>) -> Result<Vec<u16>> {
    let layouts = [1, 3].into_iter().filter(|replicas| only.is_none_or(|only| only == *replicas));
    let layouts: Vec<u16> = layouts.collect();
    ensure!(!layouts.is_empty(), "--replicas is 1 or 3");
    Ok(layouts)
}

/// All steps once, the other way round in each second round.
fn run_round(bench: &Bench<'_>, round: usize) -> Result<Vec<(Step, Figures)>> {
    let mut steps = Vec::new();
    for step in order(round) {
        for (step, figures) in bench.run(step)? {
            let place = format!("R{} {}", bench.servers.replicas(), step.name());
            println!("{place:12} {}", serde_json::to_string(&figures)?);
            steps.push((step, figures));
        }
    }
    Ok(steps)
}

/// Latency is measured with the roles of the delivery.
fn order(round: usize) -> Vec<Step> {
    let mut order = vec![Step::Raw, Step::Accept, Step::Deliver];
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_that_is_not_measured_is_refused() {
        assert_eq!(layouts(None).unwrap(), [1, 3]);
        assert_eq!(layouts(Some(3)).unwrap(), [3]);
        assert!(layouts(Some(2)).is_err());
    }
}
