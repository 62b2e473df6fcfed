//! Medians, ratios and goals, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::measure::Figures;
use super::scenario::{Kind, SCENARIOS, Scenario};
use super::server::Product;

/// All runs, by scenario and server.
#[derive(Default)]
pub(super) struct Runs {
    pub(super) figures: BTreeMap<(&'static str, Product), Vec<Figures>>,
    /// What the generator reaches straight to the sink.
    pub(super) ceilings: BTreeMap<&'static str, Vec<Figures>>,
    pub(super) versions: BTreeMap<Product, String>,
    pub(super) failures: Vec<String>,
}

/// What issue and design ask for.
struct Goal {
    scenario: &'static str,
    about: &'static str,
    figure: &'static str,
    bound: Bound,
}

enum Bound {
    /// Ours is at least so many times Postfix's.
    TimesAtLeast(f64),
    /// Ours is at most this part of Postfix's.
    PartAtMost(f64),
    /// Ours alone.
    AtMost(f64),
    /// Two figures of ours are the same.
    Equals(&'static str),
}

const RATE: &str = "messages/s against Postfix's";
const CPU: &str = "CPU against Postfix's";

const GOALS: [Goal; 11] = [
    goal("accept1", RATE, "per_second", Bound::TimesAtLeast(2.0)),
    goal("acceptN", RATE, "per_second", Bound::TimesAtLeast(2.5)),
    goal("relay1", RATE, "per_second", Bound::TimesAtLeast(2.5)),
    goal("relayN", RATE, "per_second", Bound::TimesAtLeast(4.0)),
    goal("accept1", CPU, "cpu_per_1000", Bound::PartAtMost(1.0 / 3.0)),
    goal("acceptN", CPU, "cpu_per_1000", Bound::PartAtMost(1.0 / 3.0)),
    goal("relay1", CPU, "cpu_per_1000", Bound::PartAtMost(1.0 / 3.0)),
    goal("relayN", CPU, "cpu_per_1000", Bound::PartAtMost(1.0 / 3.0)),
    goal("idle", "KiB per idle session", "kib_per_session", Bound::AtMost(14.0)),
    goal("idle", "idle sessions still alive", "alive", Bound::Equals("open")),
    goal("audit", "a sync before each 250", "synced_before_250", Bound::Equals("accepted")),
];

const fn goal(
    scenario: &'static str,
    about: &'static str,
    figure: &'static str,
    bound: Bound,
) -> Goal {
    Goal { scenario, about, figure, bound }
}

/// What a reader must know to judge the figures.
const RULES: &str = "Durability, limits and logging as each ships. CPU is of all processes of the \
    server, by control group. Delivery is held by Postfix's hold queue, and in Postrider by a next \
    hop that refuses connections. Postfix relays for loopback; Postrider relays for no address, so \
    its load goes to aliases of the same recipients. Postfix takes a process for each idle session \
    and gets 500 of them. `(sink alone)` is the generator's own ceiling, with no server.";

/// A column: the figure, its heading and its decimals.
pub(super) type Column = (&'static str, &'static str, usize);

const ACCEPT: [Column; 7] = [
    ("per_second", "messages/s", 0),
    ("cpu_per_1000", "CPU s/1000", 3),
    ("ack_p50_ms", "250 p50 ms", 1),
    ("ack_p99_ms", "p99", 1),
    ("pss_mib", "PSS MiB", 0),
    ("failed", "refused", 0),
    ("lost", "not in queue", 0),
];
const RELAY: [Column; 11] = [
    ("per_second", "messages/s", 0),
    ("mb_per_second", "MB/s", 1),
    ("cpu_per_1000", "CPU s/1000", 3),
    ("ack_p50_ms", "250 p50 ms", 1),
    ("ack_p99_ms", "p99", 1),
    ("onward_p50_ms", "250→sink p50 ms", 1),
    ("onward_p99_ms", "p99", 1),
    ("pss_mib", "PSS MiB", 0),
    ("failed", "refused", 0),
    ("lost", "not arrived", 0),
    ("duplicates", "twice", 0),
];
const IDLE: [Column; 4] = [
    ("open", "open", 0),
    ("alive", "alive after", 0),
    ("kib_per_session", "PSS KiB/session", 1),
    ("pss_mib", "PSS MiB", 0),
];
const AUDIT: [Column; 4] = [
    ("accepted", "accepted", 0),
    ("replies_seen", "250 seen", 0),
    ("synced_before_250", "synced before 250", 0),
    ("syncs_per_message", "syncs/message", 2),
];

impl Runs {
    fn median(&self, scenario: &'static str, product: Product, figure: &str) -> Option<f64> {
        median(self.figures.get(&(scenario, product))?, figure)
    }

    /// The goals that were measured: what, how much it is, how much it should be, reached.
    fn goals(&self) -> Vec<(String, f64, String, bool)> {
        let judged = GOALS.iter().filter_map(|goal| {
            let ours = self.median(goal.scenario, Product::Postrider, goal.figure)?;
            let theirs = self.median(goal.scenario, Product::Postfix, goal.figure);
            let (value, wanted, reached) = match goal.bound {
                Bound::TimesAtLeast(times) => {
                    let value = ours / theirs?;
                    (value, format!(">= {times:.1}"), value >= times)
                }
                Bound::PartAtMost(part) => {
                    let value = ours / theirs?;
                    (value, format!("<= {part:.2}"), value <= part)
                }
                Bound::AtMost(most) => (ours, format!("<= {most:.0}"), ours <= most),
                Bound::Equals(other) => {
                    let other = self.median(goal.scenario, Product::Postrider, other)?;
                    (ours, format!("= {other:.0}"), ours >= other)
                }
            };
            Some((format!("{}: {}", goal.scenario, goal.about), value, wanted, reached))
        });
        judged.collect()
    }

    /// Whether every run ended and every goal that was measured is reached, with nothing lost.
    pub(super) fn is_good(&self) -> bool {
        let lost = |figures: &Figures| figures.get("lost").is_some_and(|lost| *lost > 0.0);
        let ours = self.figures.iter().filter(|((_, product), _)| *product == Product::Postrider);
        let nothing_lost = !ours.flat_map(|(_, runs)| runs).any(lost);
        let reached = self.goals().iter().all(|(_, _, _, reached)| *reached);
        self.failures.is_empty() && nothing_lost && reached
    }

    pub(super) fn markdown(&self, machine: &str) -> String {
        let versions: Vec<&str> = self.versions.values().map(String::as_str).collect();
        let mut text = format!(
            "# Bench against Postfix\n\n`cargo xtask bench`, medians of paired runs in turning \
             order. {machine}\n{}. {RULES}\n",
            versions.join(" against ")
        );
        self.write_goals(&mut text);
        for scenario in &SCENARIOS {
            self.write_scenario(&mut text, scenario);
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFAILED: {failure}");
        }
        text
    }

    fn write_goals(&self, text: &mut String) {
        let goals = self.goals();
        if goals.is_empty() {
            return;
        }
        text.push_str("\n| goal | measured | wanted | reached |\n|---|---:|---:|---|\n");
        for (about, value, wanted, reached) in goals {
            let reached = if reached { "yes" } else { "**no**" };
            let _ = writeln!(text, "| {about} | {value:.2} | {wanted} | {reached} |");
        }
    }

    fn write_scenario(&self, text: &mut String, scenario: &Scenario) {
        let columns: &[Column] = match scenario.kind {
            Kind::Accept => &ACCEPT,
            Kind::Relay => &RELAY,
            Kind::Idle => &IDLE,
            Kind::Audit => &AUDIT,
        };
        let rows: Vec<(&str, &Vec<Figures>)> = [Product::Postfix, Product::Postrider]
            .into_iter()
            .filter_map(|product| {
                Some((product.name(), self.figures.get(&(scenario.name, product))?))
            })
            .chain(self.ceilings.get(scenario.name).map(|runs| ("(sink alone)", runs)))
            .collect();
        if rows.is_empty() {
            return;
        }
        let headings: Vec<&str> = columns.iter().map(|(_, heading, _)| *heading).collect();
        let _ = writeln!(
            text,
            "\n## {}\n\n{}\n\n| | runs | {} |\n|---|---:|{}",
            scenario.name,
            scenario.about,
            headings.join(" | "),
            "---:|".repeat(columns.len())
        );
        for (name, runs) in rows {
            let cells: Vec<String> = columns.iter().map(|column| cell(runs, column)).collect();
            let _ = writeln!(text, "| {name} | {} | {} |", runs.len(), cells.join(" | "));
        }
    }
}

/// The median, and how far the runs were apart.
pub(super) fn cell(runs: &[Figures], (figure, _, decimals): &Column) -> String {
    let Some(middle) = median(runs, figure) else { return "–".to_owned() };
    let values = runs.iter().filter_map(|run| run.get(figure).copied());
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let spread = high - low;
    if runs.len() < 2 || spread.abs() < 0.5 * 10f64.powi(-(*decimals as i32)) {
        return format!("{middle:.decimals$}");
    }
    format!("{middle:.decimals$} ({low:.decimals$}–{high:.decimals$})")
}

pub(super) fn median(runs: &[Figures], figure: &str) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().filter_map(|run| run.get(figure).copied()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(ours: &[f64], theirs: &[f64]) -> Runs {
        let figures = |values: &[f64]| -> Vec<Figures> {
            values.iter().map(|v| Figures::from([("per_second", *v), ("lost", 0.0)])).collect()
        };
        let mut runs = Runs::default();
        runs.figures.insert(("relayN", Product::Postrider), figures(ours));
        runs.figures.insert(("relayN", Product::Postfix), figures(theirs));
        runs
    }

    #[test]
    fn a_goal_is_judged_by_the_ratio_of_medians() {
        let good = runs(&[4000.0, 9000.0, 4100.0], &[1000.0, 900.0, 5000.0]);
        assert!(good.is_good());
        let bad = runs(&[3900.0, 3900.0], &[1000.0]);
        assert!(!bad.is_good());
        assert!(
            bad.markdown("")
                .contains("| relayN: messages/s against Postfix's | 3.90 | >= 4.0 | **no** |")
        );
    }

    #[test]
    fn loss_and_failures_are_never_good() {
        let mut lossy = runs(&[9000.0], &[1000.0]);
        lossy.figures.get_mut(&("relayN", Product::Postrider)).unwrap()[0].insert("lost", 1.0);
        assert!(!lossy.is_good());
        let mut failed = runs(&[9000.0], &[1000.0]);
        failed.failures.push("relay1: did not start".to_owned());
        assert!(!failed.is_good());
    }

    #[test]
    fn cells_show_the_median_and_the_spread() {
        let runs = runs(&[10.0, 30.0, 20.0], &[5.0]);
        let ours = &runs.figures[&("relayN", Product::Postrider)];
        assert_eq!(cell(ours, &("per_second", "", 0)), "20 (10–30)");
        assert_eq!(cell(ours, &("lost", "", 0)), "0");
        assert_eq!(cell(ours, &("absent", "", 0)), "–");
    }
}
