//! What processes tell at `/metrics`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::nats::Monitor;
use crate::process::Postrider;

/// The samples and metrics of one process.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    /// Name with labels, as it is written, and value.
    pub samples: BTreeMap<String, f64>,
    /// Names as they are queried, but those of a histogram without their endings; and their types.
    pub metrics: BTreeMap<String, String>,
}

impl Exposition {
    pub async fn of(process: &Postrider) -> Result<Self> {
        Self::parse(&Monitor::at(process.address("http")).text("/metrics").await?)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut exposition = Self::default();
        for line in text.lines() {
            if let Some(metric) = line.strip_prefix("# TYPE ") {
                let (name, kind) = metric.split_once(' ').context("no type")?;
                let ending = if kind == "counter" { "_total" } else { "" };
                exposition.metrics.insert(format!("{name}{ending}"), kind.to_owned());
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').context("no value")?;
                exposition.samples.insert(sample.to_owned(), value.parse()?);
            }
        }
        Ok(exposition)
    }

    /// Values of a metric whose labels include `label`, as `name="value"`.
    pub fn values(&self, name: &str, label: &str) -> Vec<f64> {
        let is_of = |sample: &str| {
            let rest = sample.strip_prefix(name);
            rest.is_some_and(|rest| {
                (rest.is_empty() || rest.starts_with('{')) && rest.contains(label)
            })
        };
        let samples = self.samples.iter().filter(|(sample, _)| is_of(sample));
        samples.map(|(_, value)| *value).collect()
    }

    pub fn sum(&self, name: &str, label: &str) -> f64 {
        self.values(name, label).iter().sum()
    }
}
