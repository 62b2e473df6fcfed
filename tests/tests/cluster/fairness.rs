//! A flood to dead and slow destinations holds back nobody else, although flooder and victim are
//! one tenant, and all of it is in one partition and more than its owner takes in hand.
//!
//! With `--long` the flood is of 100,000, for three seeds each on one server and on three;
//! `docs/reports/fairness.md` has the figures.

use anyhow::{Context, Result};
use tests::fairness::{self, House, Scale};
use tests::scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_holds_back_nobody_else() -> Result<()> {
    let first = scenario::seed();
    if !scenario::is_long() {
        return fairness::check(House::Roles { servers: 1 }, Scale::SHORT, first).await;
    }
    let mut failed = Ok(());
    for servers in [1, 3] {
        for seed in (0..3).map(|n| first.wrapping_add(n)) {
            println!("{servers} servers");
            let checked = fairness::check(House::Roles { servers }, Scale::LONG, seed).await;
            failed = failed.and(checked.with_context(|| format!("seed {seed}, {servers} servers")));
        }
    }
    failed
}
