//! A process that was cut off while it wrote: what it wrote arrives when somebody else has ended the
//! job, and is refused. Without the compare-and-set the same write is stored over the end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::TryStreamExt;
use queue::{Disposition, Filter, HopKind, Lease, Queue, SettleError, Wait};
use queue_jetstream::{Config, JetQueue};
use tests::forwarder::{Forwarder, Tampering};
use tests::mail::{self, settlement};
use tests::nats::Server;
use tests::{jet, wait};

const LIMIT: Duration = Duration::from_secs(30);
/// After so long a partition is another's: less than the library waits for answers.
const TTL_SECONDS: u64 = 3;
const DOMAIN: &str = "d.example";
/// As lists name them.
const HOP: &str = "smtp:d.example";
const HOP_AFTER: &str = "smtp:after.example";
const AFTER: &str = "after.example";

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

/// The next hops of all jobs.
async fn listed(queue: &JetQueue) -> Result<Vec<String>> {
    Ok(queue.list(Filter::default()).map_ok(|job| job.next_hop).try_collect().await?)
}

/// What a late writer is told, and what is in the queue when something has arrived after it.
struct Late {
    settled: Result<(), SettleError>,
    hops: Vec<String>,
}

async fn write_late(tampering: Option<Tampering>) -> Result<Late> {
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
    let settlement_late = settlement(defer(LIMIT));
    let settling = late.settle(&settlement_late);
    let going_on = async {
        // Of both kinds: who lists asks the owners of all partitions.
        let kinds = [HopKind::Smtp, HopKind::Mailbox];
        let second = jet::open(config(server.url()), &kinds).await?;
        lease(&second).await?.settle(&settlement(Disposition::Done)).await?;
        ensure!(listed(&second).await?.is_empty(), "it has ended");
        way.heal();
        // By the same connection, after what was held back.
        wait::until("a message after the late write", LIMIT, async || {
            mail::send(&first, AFTER, "body".into()).await.ok()
        })
        .await?;
        wait::until("that message", LIMIT, async || {
            let hops = listed(&second).await.ok()?;
            hops.iter().any(|hop| hop == HOP_AFTER).then_some(hops)
        })
        .await
    };
    let (settled, hops) = futures::future::join(settling, going_on).await;
    Ok(Late { settled, hops: hops? })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_write_changes_nothing() -> Result<()> {
    let Late { settled, hops } = write_late(None).await?;
    ensure!(matches!(settled, Err(SettleError::LeaseLost)), "{settled:?}");
    ensure!(!hops.iter().any(|hop| hop == HOP), "it has begun again: {hops:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_compare_and_set_is_caught() -> Result<()> {
    let Late { settled, .. } = write_late(Some(Tampering::ForgetExpected)).await?;
    ensure!(settled.is_ok(), "not caught: {settled:?}");
    Ok(())
}
