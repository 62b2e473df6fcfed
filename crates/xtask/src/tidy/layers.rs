//! Which crate may know which. Arrows point downward only; roles meet in the queue.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::workspace::Metadata;

/// Each crate's height: it may depend on lower ones only. One row is one layer, so crates of a row
/// never know each other.
const LAYERS: [&[&str]; 8] = [
    &["mail-types"],
    &["smtp", "message", "retry", "resolve", "nats", "senders"],
    &["domains", "queue"],
    &["history"],
    &["queue-log", "queue-jetstream", "domains-kv", "senders-kv", "outcome", "admin", "runtime"],
    &["handover"],
    &["ingress", "delivery", "mda"],
    &["postrider", "operator"],
];

/// The programs of the product, which make a whole of the others.
const PROGRAMS: [&str; 2] = ["postrider", "operator"];

/// They hold the product from outside and may use whatever they test.
const FREE: [&str; 2] = ["tests", "xtask"];

/// Sans-I/O: time and randomness are arguments, and no runtime is known.
const PURE: [&str; 6] = ["mail-types", "smtp", "message", "retry", "senders", "domains"];

/// What makes a crate impure, wherever in its tree it lies.
const RUNTIMES: [&str; 6] = ["tokio", "mio", "async-std", "smol", "async-io", "futures-executor"];

/// Named by the programs alone, which choose between them.
const BACKENDS: [&str; 4] = ["queue-log", "queue-jetstream", "domains-kv", "senders-kv"];

pub(super) fn check(metadata: &Metadata) -> Vec<Violation> {
    let names = metadata.names();
    let dependencies: Graph<'_> = metadata
        .normal_dependencies()
        .into_iter()
        .map(|(id, deps)| (names[id], deps.iter().map(|dep| names[dep]).collect()))
        .collect();
    let members: BTreeSet<&str> = metadata.members().map(|p| p.name.as_str()).collect();
    check_graph(&members, &dependencies)
}

type Graph<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn check_graph(members: &BTreeSet<&str>, dependencies: &Graph<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for &member in members.iter().filter(|member| !FREE.contains(member)) {
        let Some(height) = height(member) else {
            let rule = "has no layer: give it one in crates/xtask/src/tidy/layers.rs";
            violations.push(Violation::new(member, rule));
            continue;
        };
        let ours = dependencies.get(member).into_iter().flatten().filter(|d| members.contains(*d));
        violations.extend(ours.filter_map(|dependency| check_arrow(member, height, dependency)));
        if PURE.contains(&member) {
            violations.extend(check_pure(member, dependencies));
        }
    }
    violations
}

fn check_arrow(member: &str, height_of_member: usize, dependency: &str) -> Option<Violation> {
    if height(dependency).is_none_or(|height| height >= height_of_member) {
        let rule = format!("must not depend on {dependency}: arrows point downward only");
        return Some(Violation::new(member, rule));
    }
    if BACKENDS.contains(&dependency) && !PROGRAMS.contains(&member) {
        let rule = format!("must not name the backend {dependency}: only programs do");
        return Some(Violation::new(member, rule));
    }
    None
}

fn check_pure(member: &str, dependencies: &Graph<'_>) -> Option<Violation> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![member]);
    while let Some(name) = next.pop() {
        if RUNTIMES.contains(&name) {
            return Some(Violation::new(
                member,
                format!("is pure and must not have {name} below it"),
            ));
        }
        if seen.insert(name) {
            next.extend(dependencies.get(name).into_iter().flatten());
        }
    }
    None
}

fn height(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Arrows<'a> = &'a [(&'static str, &'static [&'static str])];

    fn broken(arrows: Arrows<'_>) -> Vec<String> {
        let dependencies: Graph<'_> = arrows.iter().map(|(a, b)| (*a, b.to_vec())).collect();
        let ours = LAYERS.iter().flat_map(|l| l.iter()).chain(&FREE).chain(&["stranger"]);
        let members = ours.copied().filter(|name| dependencies.contains_key(name)).collect();
        check_graph(&members, &dependencies).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn downward_arrows_are_fine() {
        let arrows: Arrows<'_> = &[
            ("mail-types", &["serde"]),
            ("queue", &["mail-types", "tokio"]),
            ("queue-log", &["queue", "mail-types"]),
            ("ingress", &["queue", "smtp", "tokio"]),
            ("postrider", &["ingress", "queue-log"]),
            ("tests", &["postrider", "queue-log"]),
            ("smtp", &["mail-types"]),
        ];
        assert_eq!(broken(arrows), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_wrong_arrow_is_found() {
        let cases: [(Arrows<'_>, &str); 6] = [
            (
                &[("ingress", &["delivery"]), ("delivery", &[])],
                "ingress: must not depend on delivery",
            ),
            (
                &[("queue", &["queue-log"]), ("queue-log", &[])],
                "queue: must not depend on queue-log",
            ),
            (
                &[("ingress", &["queue-log"]), ("queue-log", &[])],
                "ingress: must not name the backend",
            ),
            (&[("smtp", &["bytes"]), ("bytes", &["tokio"])], "smtp: is pure"),
            (&[("mda", &["xtask"]), ("xtask", &[])], "mda: must not depend on xtask"),
            (&[("stranger", &[])], "stranger: has no layer"),
        ];
        for (arrows, expected) in cases {
            let found = broken(arrows);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(expected), "{found:?}");
        }
    }
}
