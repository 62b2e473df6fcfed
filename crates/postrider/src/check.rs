//! `postrider check`: what a configuration says, and, with `--live`, whether what mail depends on
//! is so.
//!
//! Each part tries one thing and judges what it saw; the judging knows no network and no clock. A
//! try has its own limit of time, they run at once, and none changes or sends anything. Failure
//! behaviour: a try that fails is a finding, never an error of the check.

mod certificate;
pub(crate) mod clock;
mod disk;
mod dns;
mod finding;
mod lookup;
mod name;
mod outbound;
mod postmaster;
mod scratch;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domains::Table;
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesOrdered;
use mail_types::{Domain, Host};

use self::clock::sntp::TimeServer;
use self::finding::{Finding, Level, What};
use self::lookup::Lookup;
use crate::cli::{Check, Output};
use crate::config::{Config, DomainsFrom};
use crate::{output, resources};

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What is checked, and with what.
struct Site {
    config: Config,
    /// Our name.
    host: Host,
    /// `None` when it comes from NATS KV.
    table: Option<Arc<Table>>,
    lookup: Lookup,
    /// Domains that somebody wants to send to.
    to: Vec<Domain>,
    time_server: Option<TimeServer>,
}

impl Site {
    fn hosted_domains(&self) -> Vec<Domain> {
        let domains = self.table.iter().flat_map(|table| table.hosted_domains());
        domains.cloned().collect()
    }
}

/// Reads everything, says what it would serve, and tries it if asked to.
pub(crate) fn run(check: Check) -> anyhow::Result<()> {
    let config = Config::load(&check.directory.path)?;
    config.validate_serving()?;
    let table = match config.domains_from() {
        DomainsFrom::Files => Some(resources::load(&config)?),
        DomainsFrom::Kv => None,
    };
    if let Some(table) = &table {
        resources::check_passwords(&config, table)?;
    }
    let summary = summary(&config, table.as_deref());
    if !check.live {
        match check.output {
            Output::Table => output::line(&format!("ok: {summary}")),
            Output::Json => output::json(&What::Configuration.ok(summary))?,
        }
        return Ok(());
    }
    let site = Site {
        host: config.host()?,
        lookup: Lookup::new(&config.resolver).context("resolver")?,
        config,
        table,
        to: check.to,
        time_server: check.time_server,
    };
    show(&What::Configuration.ok(summary), check.output)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let errors = runtime.block_on(try_all(&site, check.output))?;
    anyhow::ensure!(errors == 0, "errors above that keep mail from working: {errors}");
    Ok(())
}

fn summary(config: &Config, table: Option<&Table>) -> String {
    let listeners = config.ingress.listeners.len();
    let Some(table) = table else { return format!("domains from NATS KV, {listeners} listeners") };
    let (domains, mailboxes) = (table.hosted_domains().len(), table.mailboxes());
    format!("{domains} domains, {mailboxes} mailboxes, {listeners} listeners")
}

/// Tries all at once and shows what was found in this order, as it becomes known. Counts errors.
async fn try_all(site: &Site, output: Output) -> anyhow::Result<usize> {
    let tries: [LocalBoxFuture<'_, Vec<Finding>>; 7] = [
        Box::pin(async { certificate::findings(site) }),
        Box::pin(disk::findings(site)),
        Box::pin(async { postmaster::findings(site) }),
        Box::pin(clock::findings(site)),
        Box::pin(dns::findings(site)),
        Box::pin(name::findings(site)),
        Box::pin(outbound::findings(site)),
    ];
    let mut tries: FuturesOrdered<_> = tries.into_iter().collect();
    let mut errors = 0;
    while let Some(findings) = tries.next().await {
        for finding in findings {
            errors += usize::from(finding.level == Level::Error);
            show(&finding, output)?;
        }
    }
    Ok(errors)
}

fn show(finding: &Finding, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Table => output::line(&finding.to_string()),
        Output::Json => output::json(finding)?,
    }
    Ok(())
}
