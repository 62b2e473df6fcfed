//! The domain table on NATS KV, as the process would load it.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use domains::Table;
use domains_kv::{Buckets, Loader};
use futures::FutureExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::LIMIT;
use super::finding::{Finding, What};
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
    let loader = Loader::new(&buckets, Arc::clone(&table), opener, needs).await?;
    let stop = CancellationToken::new();
    let loaded = tokio::select! {
        loaded = timeout(LIMIT, loader.loaded()) => loaded.is_ok(),
        () = loader.run(stop) => false,
    };
    let table = table.load_full().filter(|_| loaded);
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
        Some(missing) => {
            let remedy = "name the file of that key in secrets.privateKeys";
            What::Table.error(format!("{counted}, but {missing}"), remedy)
        }
    }
}

fn judge_absence(buckets: &Buckets) -> Finding {
    let urls = buckets.urls.join(", ");
    let detail = format!("no complete domain table came from {urls} in time");
    let remedy = "publish it by `postrider domain apply`: until then recipients are answered 451";
    What::Table.error(detail, remedy)
}
