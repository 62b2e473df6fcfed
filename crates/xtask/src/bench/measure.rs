//! One run of one scenario on one server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::audit::Trace;
use super::client::Client;
use super::generator::{self, Sent, Target};
use super::scenario::{Kind, Load, Scenario};
use super::server::{Product, Server};
use super::sink::{Arrived, Sink};

/// Figures by name; the report knows the names.
pub(super) type Figures = BTreeMap<&'static str, f64>;

/// Processes that fork when they are needed have forked after this many.
const WARM: u64 = 40;

/// Of Postfix, which takes a process for each.
const IDLE_OF_POSTFIX: usize = 500;

pub(super) struct Bench<'a> {
    pub(super) sink: &'a Sink,
    /// For the state of the servers, on the disk that is measured.
    pub(super) dir: &'a Path,
}

impl Bench<'_> {
    /// Runs it; gives the server's version, too.
    pub(super) fn run(&self, product: Product, scenario: &Scenario) -> Result<(Figures, String)> {
        let is_postfix = product == Product::Postfix;
        let sessions = scenario.load.sessions;
        let idle = match scenario.kind {
            Kind::Idle if is_postfix => IDLE_OF_POSTFIX.min(sessions),
            Kind::Idle => sessions,
            Kind::Accept | Kind::Relay | Kind::Audit => 0,
        };
        let hold = matches!(scenario.kind, Kind::Accept | Kind::Audit);
        let server = Server::start(product, self.dir, hold, idle)?;
        let figures = match scenario.kind {
            Kind::Accept => self.accept(&server, product, &scenario.load),
            Kind::Relay => self.relay(&server, product, &scenario.load),
            Kind::Idle => measure_idle(&server, idle),
            Kind::Audit => self.audit(&server, product, &scenario.load),
        };
        Ok((figures?, server.version()?))
    }

    /// The generator's own ceiling: straight to the sink.
    pub(super) fn ceiling(&self, scenario: &Scenario) -> Result<Figures> {
        self.sink.reset("m");
        let address = self.sink.address();
        let target = Target { address, domain: "sink.test", run: "m" };
        let sent = generator::send(&scenario.load, target);
        let mut figures = of_sent(&sent)?;
        figures.insert("per_second", figures["accepted"] / sent.seconds);
        Ok(figures)
    }

    fn warm(&self, product: Product, load: &Load, waits: bool) -> Result<()> {
        self.sink.reset("warm");
        let load = Load {
            messages: WARM,
            size_bytes: 10 * 1024,
            per_second: None,
            messages_per_session: load.messages_per_session.map(|_| 1),
            ..*load
        };
        let sent = generator::send(&load, target(product, "warm"));
        let failure = sent.first_failure.unwrap_or_default();
        ensure!(sent.accepted.len() as u64 == WARM, "refused while warming up: {failure}");
        if waits {
            self.sink.wait_for(sent.accepted.len(), WAIT_IDLE, WAIT_MAX);
        }
        // What has just started settles before the counters are read.
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    fn accept(&self, server: &Server, product: Product, load: &Load) -> Result<Figures> {
        self.warm(product, load, false)?;
        let cpu = server.group.cpu_seconds()?;
        let sent = generator::send(load, target(product, "m"));
        let mut figures = of_sent(&sent)?;
        let used = server.group.cpu_seconds()? - cpu;
        figures.insert("per_second", figures["accepted"] / sent.seconds);
        figures.insert("cpu_per_1000", used * 1000.0 / figures["accepted"]);
        figures.insert("pss_mib", server.group.pss_kib() / 1024.0);
        let queued = server.queued()?.saturating_sub(WARM);
        figures.insert("lost", figures["accepted"] - queued as f64);
        Ok(figures)
    }

    fn relay(&self, server: &Server, product: Product, load: &Load) -> Result<Figures> {
        self.warm(product, load, true)?;
        self.sink.reset("m");
        let cpu = server.group.cpu_seconds()?;
        let sent = generator::send(load, target(product, "m"));
        self.sink.wait_for(sent.accepted.len(), WAIT_IDLE, WAIT_MAX);
        let used = server.group.cpu_seconds()? - cpu;
        let arrived = self.sink.arrived();
        let mut figures = of_sent(&sent)?;
        figures.extend(of_arrived(&sent, &arrived)?);
        figures.insert("cpu_per_1000", used * 1000.0 / arrived.at.len() as f64);
        figures.insert("pss_mib", server.group.pss_kib() / 1024.0);
        Ok(figures)
    }

    fn audit(&self, server: &Server, product: Product, load: &Load) -> Result<Figures> {
        self.warm(product, load, false)?;
        let trace = Trace::start(&server.group, server.trace_path())?;
        let sent = generator::send(load, target(product, "m"));
        let audit = trace.read()?;
        let accepted = sent.accepted.len() as f64;
        Ok(Figures::from([
            ("accepted", accepted),
            ("replies_seen", audit.accepted as f64),
            ("synced_before_250", audit.synced_before as f64),
            ("syncs_per_message", audit.syncs as f64 / accepted),
        ]))
    }
}

/// A server that sends nothing for so long has lost the rest, or waits for a retry.
pub(super) const WAIT_IDLE: Duration = Duration::from_secs(20);
pub(super) const WAIT_MAX: Duration = Duration::from_secs(120);

fn target(product: Product, run: &str) -> Target<'_> {
    Target { address: Server::address(), domain: product.recipient_domain(), run }
}

/// What the sink saw of what was sent.
pub(super) fn of_arrived(sent: &Sent, arrived: &Arrived) -> Result<Figures> {
    let (count, last) = (arrived.at.len() as f64, arrived.last.context("nothing arrived")?);
    let seconds = (last - sent.started).as_secs_f64();
    let onward = |(sequence, accepted): &(u64, _)| {
        // The sink's reading can be a little before the client's.
        let at = arrived.at.get(sequence)?;
        Some(at.saturating_duration_since(*accepted).as_secs_f64() * 1e3)
    };
    let mut onward_ms: Vec<f64> = sent.accepted.iter().filter_map(onward).collect();
    onward_ms.sort_by(f64::total_cmp);
    let lost = sent.accepted.iter().filter(|(sequence, _)| !arrived.at.contains_key(sequence));
    Ok(Figures::from([
        ("per_second", count / seconds),
        ("mb_per_second", arrived.octets as f64 / seconds / 1e6),
        ("lost", lost.count() as f64),
        ("duplicates", arrived.duplicates as f64),
        ("onward_p50_ms", percentile(&onward_ms, 0.50)),
        ("onward_p99_ms", percentile(&onward_ms, 0.99)),
    ]))
}

pub(super) fn of_sent(sent: &Sent) -> Result<Figures> {
    let failure = sent.first_failure.as_deref().unwrap_or_default();
    ensure!(!sent.accepted.is_empty(), "nothing was accepted: {failure}");
    if sent.failed > 0 {
        println!("  {} messages were not accepted: {failure}", sent.failed);
    }
    Ok(Figures::from([
        ("accepted", sent.accepted.len() as f64),
        ("failed", sent.failed as f64),
        ("reconnects", sent.reconnects as f64),
        ("ack_p50_ms", percentile(&sent.latency_ms, 0.50)),
        ("ack_p99_ms", percentile(&sent.latency_ms, 0.99)),
    ]))
}

fn measure_idle(server: &Server, sessions: usize) -> Result<Figures> {
    let before = server.group.pss_kib();
    let mut open = open_sessions(sessions)?;
    std::thread::sleep(Duration::from_secs(2));
    let pss = server.group.pss_kib();
    let alive = open.iter_mut().filter_map(|client| client.command('2', "NOOP").ok()).count();
    Ok(Figures::from([
        ("open", open.len() as f64),
        ("alive", alive as f64),
        ("kib_per_session", (pss - before) / open.len() as f64),
        ("pss_mib", pss / 1024.0),
    ]))
}

/// Opens them from some threads at once, as a crowd does.
fn open_sessions(sessions: usize) -> Result<Vec<Client>> {
    const AT_ONCE: usize = 20;
    let open_some = |first: usize| -> Result<Vec<Client>> {
        let numbers = (first..sessions).step_by(AT_ONCE);
        let open = |number: usize| {
            Client::open(Server::address(), number as u64)
                .map_err(|failure| anyhow::anyhow!("session {number}: {failure}"))
        };
        numbers.map(open).collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..AT_ONCE).map(|first| scope.spawn(move || open_some(first))).collect();
        let mut all = Vec::with_capacity(sessions);
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a client has panicked"))??);
        }
        Ok(all)
    })
}

pub(super) fn percentile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99)), (50.0, 99.0));
        assert!(percentile(&[], 0.5).is_nan());
    }
}
