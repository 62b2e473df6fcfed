//! A tenant who floods dead and slow destinations holds back no other tenant of the process.
//!
//! With `--long` the flood is of 100,000, for three seeds; `docs/reports/fairness.md` has the
//! figures.

use anyhow::{Context, Result};
use tests::fairness::{self, House, Scale};
use tests::scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_flood_holds_back_no_other_tenant() -> Result<()> {
    let (first, is_long) = (scenario::seed(), scenario::is_long());
    let (scale, seeds) = if is_long { (Scale::LONG, 3) } else { (Scale::SHORT, 1) };
    let mut failed = Ok(());
    for seed in (0..seeds).map(|n| first.wrapping_add(n)) {
        let checked = fairness::check(House::OneProcess, scale, seed).await;
        failed = failed.and(checked.with_context(|| format!("seed {seed}")));
    }
    failed
}
