//! Nothing is lost, whatever fails: the no-loss harness (`tests::noloss`), with all of its faults,
//! on disks as docs/queue.md asks for them.
//!
//! 3 minutes, 30 with `POSTRIDER_LONG=1`. The seed is printed; `POSTRIDER_SEED` repeats it.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::noloss::{self, Options};
use tests::scenario;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_fails() -> Result<()> {
    let minutes = if scenario::is_long() { 30 } else { 3 };
    let options = Options::new(scenario::seed(), Duration::from_secs(minutes * 60));
    println!("seed {}, {minutes} minutes", options.seed);
    let report = noloss::run(&options, |round| println!("{round}")).await?;
    println!("{report}");
    ensure!(report.is_clean(), "seed {}: see above", options.seed);
    Ok(())
}
