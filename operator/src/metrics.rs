//! What is counted.

use std::sync::atomic::AtomicU64;

use domains::Table;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::operator::is_in_force;
use crate::report::Outcome;
use crate::tenant::Key;

type Kinds = Family<[(&'static str, &'static str); 2], Gauge>;

/// Of one operator.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) leads: Gauge,
    pub(crate) generation: Gauge,
    pub(crate) failures: Counter,
    pub(crate) patches: Counter<u64, AtomicU64>,
    pub(crate) secret_reads: Gauge,
    pub(crate) seconds: Histogram,
    resources: Kinds,
    hosted: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let seconds = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
        let metrics = Self {
            leads: Gauge::default(),
            generation: Gauge::default(),
            failures: Counter::default(),
            patches: Counter::default(),
            secret_reads: Gauge::default(),
            seconds: Histogram::new(seconds),
            resources: Kinds::default(),
            hosted: Gauge::default(),
        };
        let it = metrics.clone();
        registry.register("leads", "Whether this replica acts", it.leads);
        registry.register("table_generation", "Of the domain table, as published", it.generation);
        registry.register("reconcile_failures", "Tries that ended in an error", it.failures);
        registry.register("status_patches", "Statuses that were written", it.patches);
        registry.register("secret_reads", "Secrets that were read", it.secret_reads);
        registry.register("reconcile_seconds", "What a reconciliation took", it.seconds);
        registry.register("resources", "Resources by kind and whether in force", it.resources);
        registry.register("hosted_domains", "Domains that take mail", it.hosted);
        metrics
    }

    /// Counts what is in force, and what is not.
    pub(crate) fn count<'a>(
        &self,
        table: &Table,
        outcomes: impl Iterator<Item = &'a std::collections::BTreeMap<Key, Outcome>>,
    ) {
        let mut counts = [[0_i64; 2]; 2];
        for (key, outcome) in outcomes.flatten() {
            let kind = usize::from(key.starts_with("Mailbox/"));
            counts[kind][usize::from(is_in_force(outcome))] += 1;
        }
        for (kind, counts) in ["MailDomain", "Mailbox"].into_iter().zip(counts) {
            for (in_force, count) in ["false", "true"].into_iter().zip(counts) {
                let labels = [("kind", kind), ("in_force", in_force)];
                self.resources.get_or_create(&labels).set(count);
            }
        }
        self.hosted.set(i64::try_from(table.hosted_domains().len()).unwrap_or(i64::MAX));
    }
}
