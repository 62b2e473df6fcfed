//! A process that was cut off while it wrote: what it wrote arrives when somebody else has ended
//! the job, and is refused. Without the compare-and-set the same write is stored over the end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use queue::{Disposition, HopKind, Lease, SettleError, Wait};
use queue_jetstream::{Config, JetQueue};
use tests::forwarder::{Forwarder, Tampering};
use tests::jet;
use tests::mail::{self, settlement};
use tests::nats::Server;

/// After so long a partition is another's: less than the library waits for answers.
const TTL_SECONDS: u64 = 3;
const DOMAIN: &str = "d.example";
const HOUR: Duration = Duration::from_secs(3600);

fn defer(by: Duration) -> Disposition {
    let until = runtime::clock::now() + by;
    Disposition::Defer { until, wake_by: until, waiting_for: Wait::Time }
}

/// The job for [`DOMAIN`].
async fn lease(queue: &JetQueue) -> Result<Box<dyn Lease>> {
    let lease = mail::lease(queue).await?;
    ensure!(lease.job().next_hop.key() == DOMAIN, "another job");
    Ok(lease)
}

/// What a late writer is told.
async fn write_late(tampering: Option<Tampering>) -> Result<Result<(), SettleError>> {
    let server = Server::start().await?;
    let address = server.url().trim_start_matches("nats://").parse::<SocketAddr>()?;
    let way = Forwarder::tampering(address, tampering).await?;
    let config = |url: String| Config {
        ownership_ttl_seconds: TTL_SECONDS,
        ..jet::config(vec![url], vec![server.monitor_url()])
    };
    let first = jet::open(config(format!("nats://{}", way.address())), &[HopKind::Smtp]).await?;
    mail::send(&first, DOMAIN, "body".into()).await?;
    // A record of its own.
    lease(&first).await?.settle(&settlement(defer(Duration::ZERO))).await?;
    let mut late = lease(&first).await?;
    way.cut();
    let again = settlement(defer(HOUR));
    let settling = late.settle(&again);
    let going_on = async {
        let second = jet::open(config(server.url()), &[HopKind::Smtp]).await?;
        lease(&second).await?.settle(&settlement(Disposition::Done)).await?;
        way.heal();
        Ok::<_, anyhow::Error>(())
    };
    let (settled, gone_on) = futures::future::join(settling, going_on).await;
    gone_on.map(|()| settled)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_write_changes_nothing() -> Result<()> {
    let settled = write_late(None).await?;
    ensure!(matches!(settled, Err(SettleError::LeaseLost)), "{settled:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_compare_and_set_is_caught() -> Result<()> {
    let settled = write_late(Some(Tampering::ForgetExpected)).await?;
    ensure!(settled.is_ok(), "not caught: {settled:?}");
    Ok(())
}
