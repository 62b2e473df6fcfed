//! The queue in numbers, counted whenever somebody looks: `docs/metrics.md` names all of them.
//!
//! Before the queue is open there are none, and none of partitions that are another process's.

use std::fmt;
use std::sync::{Arc, OnceLock};

use mail_types::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use queue::HopKind;
use queue::census::{Census, Share, Tally};

use crate::backend::Backend;

/// The name of all those domains, or tenants, that are not named.
const OTHER: &str = "other";

/// The queue that is looked at, once it is open.
#[derive(Clone, Default)]
pub(crate) struct Watched(Arc<OnceLock<Backend>>);

impl Watched {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let watched = Self::default();
        registry.register_collector(Box::new(watched.clone()));
        watched
    }

    /// From now on its numbers are shown.
    pub(crate) fn watch(&self, backend: Backend) {
        // There is one queue.
        let _ = self.0.set(backend);
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("is_open", &self.0.get().is_some()).finish()
    }
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(backend) = self.0.get() else { return Ok(()) };
        let (census, now) = (backend.census(), runtime::clock::now());
        totals(&mut encoder, &census)?;
        partitions(&mut encoder, &census, now)?;
        named(&mut encoder, &domains(&census), &DOMAINS, now)?;
        named(&mut encoder, &tenants(&census), &TENANTS, now)
    }
}

fn totals(encoder: &mut DescriptorEncoder<'_>, census: &Census) -> fmt::Result {
    let all = [
        ("queue_messages", "Messages with a job here", Some(census.messages)),
        ("queue_content_bytes", "Octets of their content", Some(census.content_bytes)),
        ("queue_store_bytes", "Octets that the store occupies", census.store_bytes),
        (
            "queue_store_limit_bytes",
            "Octets waiting for a first attempt at which mail is refused",
            census.store_limit_bytes,
        ),
    ];
    for (name, help, value) in all {
        let Some(value) = value else { continue };
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        number(value).encode(metric)?;
    }
    Ok(())
}

type Count = (&'static str, &'static str, fn(&Share) -> u64);

const COUNTS: [Count; 7] = [
    ("queue_jobs_ready", "Jobs that wait for a worker where they arrived", Share::ready),
    (
        "queue_jobs_parked",
        "Jobs that wait for a worker as records: they made room, were split, or are due again",
        |share| share.parked,
    ),
    ("queue_jobs_active", "Jobs that a worker has: in flight", |share| share.tally.active),
    ("queue_jobs_deferred", "Jobs that wait for their time", |share| share.tally.deferred()),
    ("queue_jobs_held", "Jobs that an operator stopped", |share| share.tally.held),
    ("queue_jobs_quarantined", "Jobs that cannot be read", |share| share.tally.quarantined),
    ("queue_work_jobs", "Jobs ready, parked or active: what to scale by", Share::work),
];

fn partitions(encoder: &mut DescriptorEncoder<'_>, census: &Census, now: Timestamp) -> fmt::Result {
    for (name, help, count) in COUNTS {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (partition, share) in &census.shares {
            gauge(&mut metric, &[("partition", partition)], &number(count(share)))?;
        }
    }
    let help = "Age of the oldest message with a job that is ready, parked or active; else 0";
    let name = "queue_oldest_work_seconds";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (partition, share) in &census.shares {
        gauge(&mut metric, &[("partition", partition)], &age(&share.tally, now))?;
    }
    Ok(())
}

/// Names and descriptions of what is told of the domains, or tenants, with most jobs.
struct Names {
    jobs: (&'static str, &'static str),
    oldest: (&'static str, &'static str),
}

const DOMAINS: Names = Names {
    jobs: ("queue_domain_jobs", "Jobs by domain and state, of the domains with most of them"),
    oldest: ("queue_domain_oldest_work_seconds", "Age of the oldest work of a domain; else 0"),
};

const TENANTS: Names = Names {
    jobs: ("queue_tenant_jobs", "Jobs by tenant and state, of the tenants with most of them"),
    oldest: ("queue_tenant_oldest_work_seconds", "Age of the oldest work of a tenant; else 0"),
};

/// Labels, and what is counted under them.
type Row = (Vec<(&'static str, String)>, Tally);

fn domains(census: &Census) -> Vec<Row> {
    let labels =
        |kind: &str, domain: &str| vec![("kind", kind.to_owned()), ("domain", domain.to_owned())];
    let first = census.next_hops.first.iter().map(|(hop, tally)| {
        let kind = match hop.kind() {
            HopKind::Smtp => "smtp",
            HopKind::Mailbox => "mailbox",
        };
        (labels(kind, hop.key()), *tally)
    });
    // No next hop is of this kind: no domain is taken for all others.
    first.chain([(labels(OTHER, OTHER), census.next_hops.other)]).collect()
}

fn tenants(census: &Census) -> Vec<Row> {
    let labels =
        |named: &str, tenant: &str| vec![("kind", named.to_owned()), ("tenant", tenant.to_owned())];
    let first = census.tenants.first.iter();
    let first = first.map(|(tenant, tally)| (labels("tenant", tenant.as_str()), *tally));
    first.chain([(labels(OTHER, OTHER), census.tenants.other)]).collect()
}

fn named(
    encoder: &mut DescriptorEncoder<'_>,
    rows: &[Row],
    names: &Names,
    now: Timestamp,
) -> fmt::Result {
    let (name, help) = names.jobs;
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, tally) in rows {
        for (state, count) in states(tally) {
            let state = ("state", state);
            let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, &**value)).collect();
            gauge(&mut metric, &[&labels[..], &[state]].concat(), &number(count))?;
        }
    }
    let (name, help) = names.oldest;
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, tally) in rows {
        let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, &**value)).collect();
        gauge(&mut metric, &labels, &age(tally, now))?;
    }
    Ok(())
}

fn states(tally: &Tally) -> [(&'static str, u64); 5] {
    [
        ("ready", tally.ready),
        ("active", tally.active),
        ("deferred", tally.deferred()),
        ("held", tally.held),
        ("quarantined", tally.quarantined),
    ]
}

fn gauge(
    metric: &mut MetricEncoder<'_>,
    labels: &[(&str, impl AsRef<str>)],
    value: &impl EncodeMetric,
) -> fmt::Result {
    let labels: Vec<(&str, &str)> =
        labels.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    value.encode(metric.encode_family(&labels)?)
}

fn number(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn age(tally: &Tally, now: Timestamp) -> ConstGauge<f64> {
    let age = tally.oldest.map(|arrival| now.since(arrival));
    ConstGauge::new(age.unwrap_or_default().as_secs_f64())
}
