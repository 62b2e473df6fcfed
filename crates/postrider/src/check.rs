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
mod nats;
mod outbound;
mod postmaster;
mod scratch;
mod table;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domains::Table;
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesOrdered;
use mail_types::{Domain, Host};

pub(crate) use self::certificate::ensure_readable;
use self::clock::sntp::TimeServer;
use self::finding::{Finding, Level, What};
use self::lookup::Lookup;
use crate::cli::{Check, Output};
use crate::config::{Config, DomainsFrom, placed};
use crate::serve::{Role, ensure_shared};
use crate::{output, resources};

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What is checked, and with what.
struct Site {
    config: Config,
    /// Our name.
    host: Host,
    /// What the process is.
    roles: Vec<Role>,
    /// `None` when it is not to be had from NATS KV.
    table: Option<Arc<Table>>,
    lookup: Lookup,
    /// Domains that somebody wants to send to.
    to: Vec<Domain>,
    time_server: Option<TimeServer>,
}

impl Site {
    fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whom listeners say that they are, each name once.
    fn listener_names(&self) -> Vec<Host> {
        let mut names = Vec::new();
        for listener in &self.config.ingress.listeners {
            let own = listener.hostname.as_ref().and_then(|name| Host::parse(name).ok());
            let name = own.unwrap_or_else(|| self.host.clone());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn hosted_domains(&self) -> Vec<Domain> {
        let domains = self.table.iter().flat_map(|table| table.hosted_domains());
        domains.cloned().collect()
    }
}

/// Reads everything, says what it would serve, and tries it if asked to.
pub(crate) fn run(check: Check) -> anyhow::Result<()> {
    let config = Config::load(&check.directory.path)?;
    config.validate_serving()?;
    let roles = check.role.map_or(Role::ALL.to_vec(), |role| vec![role]);
    ensure_shared(&config, &roles)?;
    anyhow::ensure!(
        check.to.is_empty() || roles.contains(&Role::Worker),
        "--to tries the way out, which is a worker's: leave it out, or --role"
    );
    let table = match config.domains_from() {
        DomainsFrom::Files => Some(resources::load(&config)?),
        DomainsFrom::Kv => None,
    };
    if let Some(table) = &table {
        resources::check_passwords(&config, table)?;
    }
    let summary = summary(&config, table.as_deref());
    if !check.live {
        let readable = ensure_readable(&config);
        readable.map_err(|error| placed(&config.directory, error))?;
        match check.output {
            Output::Table => output::line(&format!("ok: {summary}")),
            Output::Json => output::json(&What::Configuration.ok(summary))?,
        }
        return Ok(());
    }
    show(&What::Configuration.ok(summary), check.output)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let errors = runtime.block_on(check_live(check, config, roles, table))?;
    anyhow::ensure!(errors == 0, "errors above that keep mail from working: {errors}");
    Ok(())
}

/// Counts errors.
async fn check_live(
    check: Check,
    config: Config,
    roles: Vec<Role>,
    table: Option<Arc<Table>>,
) -> anyhow::Result<usize> {
    let mut site = Site {
        host: config.host()?,
        lookup: Lookup::new(&config.resolver).context("resolver")?,
        config,
        roles,
        table,
        to: check.to,
        time_server: check.time_server,
    };
    let mut errors = 0;
    if site.config.domains_from() == DomainsFrom::Kv {
        let (table, finding) = table::load(&site.config, &site.roles).await?;
        site.table = table;
        errors += usize::from(finding.level == Level::Error);
        show(&finding, check.output)?;
    }
    Ok(errors + try_all(&site, check.output).await?)
}

fn summary(config: &Config, table: Option<&Table>) -> String {
    let listeners = config.ingress.listeners.len();
    let Some(table) = table else { return format!("domains from NATS KV, {listeners} listeners") };
    let (domains, mailboxes) = (table.hosted_domains().len(), table.mailboxes());
    format!("{domains} domains, {mailboxes} mailboxes, {listeners} listeners")
}

/// What the roles depend on, and no more.
fn tries(site: &Site) -> Vec<LocalBoxFuture<'_, Vec<Finding>>> {
    let mut tries: Vec<LocalBoxFuture<'_, Vec<Finding>>> = Vec::new();
    if site.is(Role::Ingress) {
        tries.push(Box::pin(async { certificate::findings(site) }));
    }
    tries.push(Box::pin(disk::findings(site)));
    if site.is(Role::Ingress) {
        tries.push(Box::pin(async { postmaster::findings(site) }));
    }
    tries.push(Box::pin(clock::findings(site)));
    if site.is(Role::Ingress) || site.is(Role::Worker) {
        tries.push(Box::pin(dns::findings(site)));
        tries.push(Box::pin(name::findings(site)));
        // An ingress asks the servers of gateway domains.
        tries.push(Box::pin(outbound::findings(site)));
    }
    tries.push(Box::pin(nats::findings(site)));
    tries
}

/// Tries all at once and shows what was found in this order, as it becomes known. Counts errors.
async fn try_all(site: &Site, output: Output) -> anyhow::Result<usize> {
    let mut tries: FuturesOrdered<_> = tries(site).into_iter().collect();
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
