//! The servers of the cluster tests themselves: what is killed comes back current.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::nats::{Cluster, Server};

const CURRENT_MAX: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_killed_server_comes_back_current() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let leader = cluster.meta_leader().await.context("no meta leader")?;
    cluster.kill(leader)?;
    cluster.until_current(CURRENT_MAX).await?;
    let next = cluster.meta_leader().await.context("no meta leader")?;
    ensure!(next != leader, "a dead server leads");
    cluster.restart(leader)?;
    cluster.until_current(CURRENT_MAX).await?;
    Ok(())
}

#[tokio::test]
async fn a_single_server_survives_its_kill() -> Result<()> {
    let mut server = Server::start().await?;
    server.kill()?;
    server.restart().await?;
    let page = server.monitor().json("/jsz?config=1").await?;
    ensure!(page["config"]["sync_always"] == true, "sync is lazy: {page}");
    server.stop_process()?;
    ensure!(!server.monitor().is_healthy().await, "a stopped server answers");
    server.resume()?;
    server.until_ready(CURRENT_MAX).await
}
