//! `postrider domain …`.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use admin::PasswordView;
use admin::client::Client;
use anyhow::Context;
use domains::Table;
use domains_kv::{Progress, Published, Shrinking};
use queue_jetstream::permissions::Role;
use serde::Serialize;

use crate::cli::{DomainCommand, Output, Target};
use crate::config::{Config, DomainsFrom};
use crate::{domain_mailbox, output, resources, secrets};

/// Between two lines of progress.
const SHOW: Duration = Duration::from_secs(2);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    domain: String,
    tenant: String,
}

pub(crate) async fn run(command: DomainCommand) -> anyhow::Result<()> {
    match command {
        DomainCommand::List { target } => list(&target).await,
        DomainCommand::Mailbox { address, target } => domain_mailbox::show(&address, &target).await,
        DomainCommand::Passwords { address, target } => passwords(&address, &target).await,
        DomainCommand::Keys { directory, classes } => secrets::make(&directory, &classes),
        DomainCommand::Apply { directory, confirm_shrink, target } => {
            let shrinking = if confirm_shrink { Shrinking::Confirmed } else { Shrinking::Refused };
            apply(&directory.unwrap_or(target.config), shrinking, target.output).await
        }
    }
}

async fn list(target: &Target) -> anyhow::Result<()> {
    let table = in_force(&Config::load(&target.config)?).await?;
    let rows = table.hosted_domains().into_iter().map(|domain| Row {
        domain: domain.to_string(),
        tenant: table.tenant_of(domain).map(ToString::to_string).unwrap_or_default(),
    });
    match target.output {
        Output::Json => rows.into_iter().try_for_each(|row| output::json(&row)),
        Output::Table => {
            let rows: Vec<Vec<String>> = rows.map(|row| vec![row.domain, row.tenant]).collect();
            output::table(&["DOMAIN", "TENANT"], &rows);
            Ok(())
        }
    }
}

async fn passwords(address: &str, target: &Target) -> anyhow::Result<()> {
    let client = Client::new(&Config::load(&target.config)?.admin_socket());
    let found = client.passwords(address).await?;
    match target.output {
        Output::Json => found.iter().try_for_each(output::json),
        Output::Table => {
            let rows: Vec<Vec<String>> = found.into_iter().map(row_of_password).collect();
            output::table(&["NAME", "SCHEME", "LAST USE", "LISTENER"], &rows);
            Ok(())
        }
    }
}

fn row_of_password(password: PasswordView) -> Vec<String> {
    let PasswordView { name, scheme, last_use, listener } = password;
    let last_use = last_use.map_or_else(|| "never".to_owned(), |at| at.to_rfc3339());
    vec![name, scheme, last_use, listener.unwrap_or_default()]
}

/// The table that a process with this configuration has.
pub(crate) async fn in_force(config: &Config) -> anyhow::Result<Arc<Table>> {
    match config.domains_from() {
        DomainsFrom::Files => resources::load(config),
        DomainsFrom::Kv => {
            let bucket = config.domains_kv(Role::Admin.inbox())?;
            Ok(Arc::new(Box::pin(domains_kv::read(&bucket)).await?.1))
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied {
    generation: u64,
    domains: usize,
    mailboxes: usize,
    written: usize,
    dropped: usize,
}

/// Tells on stderr how far it has come, when it takes its time.
async fn show(progress: &Progress, rows: usize) -> Infallible {
    loop {
        tokio::time::sleep(SHOW).await;
        let compared = progress.compared.load(Ordering::Relaxed);
        let written = progress.written.load(Ordering::Relaxed);
        output::hint(&format!("{compared} of {rows} entries compared, {written} written"));
    }
}

async fn apply(directory: &Path, shrinking: Shrinking, form: Output) -> anyhow::Result<()> {
    let config = Config::load(directory)?;
    config.validate()?;
    let bucket = config.domains_kv(Role::Admin.inbox())?;
    let sealer = config.secrets.sealer()?;
    let table = resources::load(&config)?;
    let progress = Progress::default();
    let publish = domains_kv::publish(&bucket, &sealer, &table, shrinking, &progress);
    let shown = show(&progress, table.row_count());
    // Boxed: the client library's futures are large. Cancel-safe: showing holds nothing.
    let published = tokio::select! {
        published = Box::pin(publish) => published,
        never = shown => match never {},
    };
    let Published { marker, written, dropped } = published.context("not published")?;
    let applied = Applied {
        generation: marker.generation,
        domains: marker.domains,
        mailboxes: marker.mailboxes,
        written,
        dropped,
    };
    match form {
        Output::Json => output::json(&applied),
        Output::Table => {
            let Applied { generation, domains, mailboxes, .. } = applied;
            output::line(&format!(
                "generation {generation}: {domains} domains, {mailboxes} mailboxes; \
                 {written} entries written, {dropped} dropped"
            ));
            Ok(())
        }
    }
}
