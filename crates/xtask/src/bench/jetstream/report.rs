//! Parts of the raw rate, and goals, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Figures;
use super::step::Step;
use crate::bench::report::{Column, cell, median};

/// All rounds of both layouts.
pub(in crate::bench) struct Rounds {
    /// Of Postrider, and of nats-server.
    versions: [String; 2],
    figures: BTreeMap<(u16, Step), Vec<Figures>>,
    pub(in crate::bench) failures: Vec<String>,
}

/// What the issue asks for.
struct Goal {
    replicas: u16,
    step: Step,
    figure: &'static str,
    about: &'static str,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const OF_RAW: &str = "of_raw";
const ACCEPTING: &str = "accepting, % of the raw rate";
const DELIVERING: &str = "accept to delivered, % of the raw rate";
const P50: &str = "250 to sink at 100/s, p50 ms";
const P99: &str = "250 to sink at 100/s, p99 ms";

const GOALS: [Goal; 8] = [
    goal(1, Step::Accept, OF_RAW, ACCEPTING, Bound::AtLeast(60.0)),
    goal(1, Step::Deliver, OF_RAW, DELIVERING, Bound::AtLeast(40.0)),
    goal(1, Step::Latency, "onward_p50_ms", P50, Bound::AtMost(20.0)),
    goal(1, Step::Latency, "onward_p99_ms", P99, Bound::AtMost(100.0)),
    goal(3, Step::Accept, OF_RAW, ACCEPTING, Bound::AtLeast(60.0)),
    goal(3, Step::Deliver, OF_RAW, DELIVERING, Bound::AtLeast(35.0)),
    goal(3, Step::Latency, "onward_p50_ms", P50, Bound::AtMost(20.0)),
    goal(3, Step::Latency, "onward_p99_ms", P99, Bound::AtMost(100.0)),
];

const fn goal(
    replicas: u16,
    step: Step,
    figure: &'static str,
    about: &'static str,
    bound: Bound,
) -> Goal {
    Goal { replicas, step, figure, about, bound }
}

/// What a reader must know to judge the figures.
const RULES: &str = "`sync_interval: always`, work queues with file storage. `raw`: a publisher of \
    its own, 10 KB, 64 in flight on one connection over 4 streams, message ids, every \
    acknowledgement awaited. `accept`: `postrider ingress` alone, 64 sessions, many messages each, \
    10 KB. `deliver`: with `postrider worker`, to the last arrival at the sink, over 20 next hops \
    in 4 partitions; the sessions do not wait for the deliveries. `lat100`: the same processes at \
    100 messages/s in an open loop. Settings of the queue are the defaults. Everything runs on the \
    same cores; CPU is by control group, `bench` is generator and sink. Percentages are of the raw \
    rate of the same round; the order of the steps turns with each round, each has new streams.";

const COLUMNS: [Column; 14] = [
    ("per_second", "messages/s", 0),
    (OF_RAW, "% of raw", 0),
    ("accept_per_second", "accepted/s", 0),
    ("servers_cpu_per_1000", "CPU s/1000 servers", 3),
    ("roles_cpu_per_1000", "postrider", 3),
    ("bench_cpu_per_1000", "bench", 3),
    ("ack_p50_ms", "ack or 250 p50 ms", 1),
    ("ack_p99_ms", "p99", 1),
    ("onward_p50_ms", "250→sink p50 ms", 1),
    ("onward_p99_ms", "p99", 1),
    ("failed", "refused", 0),
    ("lost", "not arrived", 0),
    ("duplicates", "twice", 0),
    ("left", "left in streams", 0),
];

/// Any of these is a fault, however few.
const FAULTS: [&str; 4] = ["failed", "lost", "duplicates", "left"];

impl Rounds {
    pub(super) const fn new(postrider: String, nats: String) -> Self {
        let versions = [postrider, nats];
        Self { versions, figures: BTreeMap::new(), failures: Vec::new() }
    }

    /// Adds a round; what it reaches is a part of its own raw rate.
    pub(super) fn add(&mut self, replicas: u16, steps: Vec<(Step, Figures)>) {
        let raw = steps.iter().find(|(step, _)| *step == Step::Raw);
        let raw = raw.and_then(|(_, figures)| figures.get("per_second").copied());
        for (step, mut figures) in steps {
            if let (Step::Accept | Step::Deliver, Some(raw)) = (step, raw) {
                figures.insert(OF_RAW, figures["per_second"] / raw * 100.0);
            }
            self.figures.entry((replicas, step)).or_default().push(figures);
        }
    }

    /// The goals that were measured: what, how much it is, how much it should be, reached.
    fn goals(&self) -> Vec<(String, f64, String, bool)> {
        let judged = GOALS.iter().filter_map(|goal| {
            let value = median(self.figures.get(&(goal.replicas, goal.step))?, goal.figure)?;
            let (wanted, reached) = match goal.bound {
                Bound::AtLeast(least) => (format!(">= {least:.0}"), value >= least),
                Bound::AtMost(most) => (format!("<= {most:.0}"), value <= most),
            };
            Some((format!("R{}: {}", goal.replicas, goal.about), value, wanted, reached))
        });
        judged.collect()
    }

    /// Whether every goal is reached, with nothing lost, doubled or refused.
    pub(in crate::bench) fn is_good(&self) -> bool {
        let is_faulty = |run: &Figures| FAULTS.iter().any(|f| run.get(f).is_some_and(|n| *n > 0.0));
        let goals = self.goals();
        self.failures.is_empty()
            && goals.len() == GOALS.len()
            && goals.iter().all(|(_, _, _, reached)| *reached)
            && !self.figures.values().flatten().any(is_faulty)
    }

    pub(in crate::bench) fn markdown(&self, machine: &str) -> String {
        let [postrider, nats] = &self.versions;
        let mut text = format!(
            "# Bench on JetStream\n\n`cargo xtask bench --jetstream`, medians and spread. \
             {machine}\n{postrider}, {nats}. {RULES}\n\n\
             | goal | measured | wanted | reached |\n|---|---:|---:|---|\n"
        );
        for (about, value, wanted, reached) in self.goals() {
            let reached = if reached { "yes" } else { "**no**" };
            let _ = writeln!(text, "| {about} | {value:.1} | {wanted} | {reached} |");
        }
        for (replicas, about) in [(1, "one server"), (3, "three servers, three copies")] {
            let _ = writeln!(text, "\n## R{replicas}: {about}\n");
            self.write_steps(&mut text, replicas);
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFAILED: {failure}");
        }
        text
    }

    fn write_steps(&self, text: &mut String, replicas: u16) {
        let headings: Vec<&str> = COLUMNS.iter().map(|(_, heading, _)| *heading).collect();
        let rules = "---:|".repeat(COLUMNS.len());
        let _ = writeln!(text, "| | rounds | {} |\n|---|---:|{rules}", headings.join(" | "));
        for step in Step::ALL {
            let Some(runs) = self.figures.get(&(replicas, step)) else { continue };
            let cells: Vec<String> = COLUMNS.iter().map(|column| cell(runs, column)).collect();
            let _ = writeln!(text, "| {} | {} | {} |", step.name(), runs.len(), cells.join(" | "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(rates: &[(f64, f64, f64)]) -> Rounds {
        let mut rounds = Rounds::new("p".to_owned(), "n".to_owned());
        for replicas in [1, 3] {
            for (raw, accept, deliver) in rates {
                let rate = |rate| Figures::from([("per_second", rate), ("lost", 0.0)]);
                let latency = Figures::from([("onward_p50_ms", 2.0), ("onward_p99_ms", 9.0)]);
                rounds.add(
                    replicas,
                    vec![
                        (Step::Deliver, rate(*deliver)),
                        (Step::Latency, latency),
                        (Step::Accept, rate(*accept)),
                        (Step::Raw, rate(*raw)),
                    ],
                );
            }
        }
        rounds
    }

    #[test]
    fn a_rate_is_judged_by_the_raw_rate_of_its_round() {
        let drifting =
            rounds(&[(1000.0, 610.0, 410.0), (100.0, 61.0, 41.0), (500.0, 305.0, 205.0)]);
        assert!(drifting.is_good());
        let slow = rounds(&[(1000.0, 610.0, 390.0)]);
        assert!(!slow.is_good());
        let row = "| R1: accept to delivered, % of the raw rate | 39.0 | >= 40 | **no** |";
        assert!(slow.markdown("").contains(row));
    }

    #[test]
    fn faults_and_gaps_are_never_good() {
        for fault in FAULTS {
            let mut faulty = rounds(&[(1000.0, 900.0, 900.0)]);
            assert!(faulty.is_good());
            faulty.figures.get_mut(&(3, Step::Accept)).unwrap()[0].insert(fault, 1.0);
            assert!(!faulty.is_good(), "{fault}");
        }
        let mut partial = rounds(&[(1000.0, 900.0, 900.0)]);
        partial.figures.remove(&(3, Step::Deliver));
        assert!(!partial.is_good());
    }
}
