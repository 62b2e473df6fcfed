//! What a run tells, to people and to programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::accounts::InFlight;
use super::judge::{Crime, Verdict};

/// Findings that are told to people; programs get all.
pub(super) const TOLD: usize = 20;

/// A fault as it was.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Seconds since the start.
    pub at_seconds: f64,
    pub fault: String,
    /// Right before it.
    pub in_flight: InFlight,
    /// From the fault to the moment that it was mended.
    pub held_seconds: f64,
    /// From then until all processes worked again.
    pub recovered_seconds: f64,
    /// What had to be done beyond undoing it.
    pub remedy: Option<String>,
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub seed: u64,
    pub seconds: f64,
    pub rounds: Vec<Round>,
    /// Rounds that were given up because nothing was in flight.
    pub void: usize,
    /// How long the queue took to drain after the last round.
    pub drained_seconds: f64,
    /// Why it did not drain.
    pub not_drained: Option<String>,
    pub verdict: Verdict,
}

impl Report {
    /// Whether all was as promised.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.not_drained.is_none()
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_seconds, fault, held_seconds, recovered_seconds, .. } = self;
        let InFlight { accepts, deliveries, retries } = self.in_flight;
        write!(
            f,
            "{at_seconds:6.1} s  {fault}; in flight: {accepts} accepts, {deliveries} deliveries, \
             {retries} retries; held {held_seconds:.1} s, recovered in {recovered_seconds:.1} s"
        )?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = &self.verdict;
        writeln!(
            f,
            "seed {}, {:.0} s, {} rounds, {} void; drained in {:.0} s",
            self.seed,
            self.seconds,
            self.rounds.len(),
            self.void,
            self.drained_seconds
        )?;
        writeln!(
            f,
            "{} transactions: {} accepted for {} recipients, {} refused before content, {} after; \
             {} told 4xx after content ({} of them delivered, their commit's outcome unknown), {} \
             not answered ({} delivered)",
            v.transactions,
            v.accepted,
            v.recipients,
            v.refused_before_content,
            v.refused_after_content,
            v.deferred_after_content,
            v.deferred_yet_delivered,
            v.unanswered,
            v.unanswered_yet_delivered
        )?;
        writeln!(
            f,
            "{} of {} recipients found: {} to be relayed, {} stored, {} bounced, {} double bounced",
            v.arrived, v.recipients, v.relayed, v.stored, v.bounced, v.double_bounced
        )?;
        writeln!(f, "{} duplicates", v.duplicates)?;
        for (fault, count) in &v.duplicates_by_fault {
            writeln!(f, "  {count} by {fault}")?;
        }
        if let Some(why) = &self.not_drained {
            writeln!(f, "NOT DRAINED: {why}")?;
        }
        for finding in v.findings.iter().take(TOLD) {
            writeln!(f, "{:?} {} {}", finding.crime, finding.token, finding.about)?;
            finding.said.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        let mut counts: BTreeMap<Crime, usize> = BTreeMap::new();
        v.findings.iter().for_each(|finding| *counts.entry(finding.crime).or_default() += 1);
        write!(f, "{} findings {counts:?}", v.findings.len())
    }
}
