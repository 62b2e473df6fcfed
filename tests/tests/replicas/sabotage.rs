//! The no-loss harness notices what it is there for: each way to break the product is caught within
//! one run. The product is as it is: what lies is between the roles and the servers. A forgotten
//! compare-and-set is caught at the queue (`cluster::late_write`): here two writers of one record
//! hardly ever meet.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::noloss::{self, Crime, Kind, Options, Order, Report, Sabotage, Tampering};
use tests::scenario;

const DURATION: Duration = Duration::from_secs(10);
/// What is not found then will not be.
const DRAIN_MAX: Duration = Duration::from_secs(15);

async fn caught(sabotage: Sabotage, faults: &[Kind]) -> Result<Report> {
    let options = Options {
        faults: faults.to_vec(),
        sabotage: Some(sabotage),
        // Disks that keep the order lose less: what is synced takes along what came before it.
        order: Order::Any,
        drain_max: DRAIN_MAX,
        ..Options::new(scenario::seed(), DURATION)
    };
    println!("seed {}: {sabotage:?}", options.seed);
    let report = noloss::run(&options, |round| println!("{round}")).await?;
    println!("{report}");
    Ok(report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_commit_is_caught() -> Result<()> {
    let sabotage = Sabotage::Tamper(Tampering::EarlyAnswer);
    let report = caught(sabotage, &[Kind::Kill, Kind::PowerCut]).await?;
    ensure!(report.verdict.has(Crime::Lost), "not caught");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lazy_sync_is_caught() -> Result<()> {
    let report = caught(Sabotage::LazySync, &[Kind::PowerCut]).await?;
    ensure!(report.verdict.has(Crime::Lost), "not caught");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_deferral_is_caught() -> Result<()> {
    let sabotage = Sabotage::Tamper(Tampering::DropRecords);
    let report = caught(sabotage, &[Kind::Kill]).await?;
    ensure!(report.verdict.has(Crime::Lost), "not caught");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubled_lease_is_caught() -> Result<()> {
    let sabotage = Sabotage::Tamper(Tampering::DoubleLeases);
    // It explains no duplicate.
    let report = caught(sabotage, &[Kind::Clock]).await?;
    ensure!(report.verdict.has(Crime::Duplicate), "not caught");
    Ok(())
}
