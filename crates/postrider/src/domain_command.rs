//! `postrider domain …`.

use serde::Serialize;

use crate::cli::{DomainCommand, Output};
use crate::config::Config;
use crate::{output, resources};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    domain: String,
    tenant: String,
}

pub(crate) fn run(command: DomainCommand) -> anyhow::Result<()> {
    let DomainCommand::List { target } = command;
    let table = resources::load(&Config::load(&target.config)?)?;
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
