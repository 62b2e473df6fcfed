//! The domain table on NATS KV, as the process would load it.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use domains::Table;
use domains_kv::{Buckets, Loader};
use futures::FutureExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::finding::{Finding, What};
use super::nats::LIMIT;
use crate::config::Config;
use crate::serve::Role;
use crate::table;

/// Loads it, and says what became of that.
pub(super) async fn load(
    config: &Config,
    roles: &[Role],
) -> anyhow::Result<(Option<Arc<Table>>, Finding)> {
    let buckets = config.domains_kv(table::inbox(roles))?;
    let (opener, needs) = (config.secrets.opener()?, table::needs(config, roles));
    let table = Arc::new(ArcSwapOption::empty());
    let loader = match Loader::new(&buckets, Arc::clone(&table), opener, needs).await {
        Ok(loader) => loader,
        Err(error) => {
            let detail = format!("{:#}", anyhow::Error::new(error));
            return Ok((None, What::Table.error(detail, "correct the section jetstream")));
        }
    };
    // Cancel-safe: whichever ends first, what is loaded by then is in `table`.
    tokio::select! {
        _ = timeout(LIMIT, loader.loaded()) => {}
        () = loader.run(CancellationToken::new()) => {}
    }
    let table = table.load_full();
    let finding = match &table {
        Some(table) => judge(table, missing_key(&loader)),
        None => judge_absence(&buckets),
    };
    Ok((table, finding))
}

/// The key that the process lacks for the table that is loaded, if any.
fn missing_key(loader: &Loader) -> Option<String> {
    let missing = RefCell::new(None);
    // It tells of the one that is there at once, and would then wait for others.
    let _ = loader.missing_keys(|key| *missing.borrow_mut() = key).now_or_never();
    missing.into_inner().map(|error| error.to_string())
}

fn judge(table: &Table, missing: Option<String>) -> Finding {
    let (domains, mailboxes) = (table.hosted_domains().len(), table.mailboxes());
    let counted = format!("{domains} domains and {mailboxes} mailboxes on NATS KV");
    match missing {
        None => What::Table.ok(counted),
        Some(missing) => What::Table.error(counted, missing),
    }
}

fn judge_absence(buckets: &Buckets) -> Finding {
    let urls = buckets.urls.join(", ");
    let detail = format!("no complete domain table came from {urls} in time");
    let remedy = "if `nats` is well, publish it by `postrider domain apply`: until there is one, \
                  recipients are answered 451";
    What::Table.error(detail, remedy)
}
