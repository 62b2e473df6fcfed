//! Content that nothing refers to is collected, and nothing else is.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::TryStreamExt;
use queue::{Disposition, HopKind, Lease, Queue, Wait};
use tests::jet;
use tests::mail::{self, lease, settlement};
use tests::nats::Server;
use tests::wait;

const LARGE: usize = 1 << 20;
/// Chunks of two bodies, and of one of them its header and its manifest.
const REFERRED_TO: u64 = 4 + 4 + 2;
const LIMIT: Duration = Duration::from_secs(30);
/// Of one message.
const JOBS: usize = 24;

fn body() -> Bytes {
    vec![b'x'; LARGE].into()
}

async fn size(lease: &dyn Lease) -> Result<usize> {
    let content = lease.content().await?;
    Ok(content.chunks.try_fold(0, async |sum, chunk| Ok(sum + chunk.len())).await?)
}

async fn stored(server: &Server) -> Result<u64> {
    let context = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    let mut messages = 0;
    for name in ["body-0", "body-1"] {
        messages += context.get_stream(name).await?.cached_info().state.messages;
    }
    Ok(messages)
}

async fn until_nothing_is_stored(server: &Server) -> Result<()> {
    let is_gone = async || (stored(server).await.ok()? == 0).then_some(());
    wait::until("the content to be gone", LIMIT, is_gone).await
}

/// The jobs of a new message, all of them leased.
async fn leased(queue: &dyn Queue) -> Result<Vec<Box<dyn Lease>>> {
    let names: Vec<String> = (0..JOBS).map(|n| format!("d{n}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    mail::send_to(queue, &names, body()).await?;
    let mut leases = Vec::new();
    while leases.len() < JOBS {
        let more = queue.lease(HopKind::Smtp, JOBS, 1);
        leases.extend(tokio::time::timeout(LIMIT, more).await??);
    }
    Ok(leases)
}

/// Of all that end at once, one sees that there is none left; nobody collects anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_job_takes_the_content_along() -> Result<()> {
    let server = Server::start().await?;
    let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    let queue = jet::open(config, &[HopKind::Smtp]).await?;
    let mut leases = leased(&queue).await?;
    ensure!(stored(&server).await? > 0, "a large message has chunks");
    let all_but_one = leases.split_off(1);
    let done = settlement(Disposition::Done);
    let ends = all_but_one.into_iter().map(async |mut lease| lease.settle(&done).await);
    futures::future::try_join_all(ends).await?;
    ensure!(size(&*leases[0]).await? > LARGE, "one is to be delivered still");
    leases[0].settle(&done).await?;
    until_nothing_is_stored(&server).await?;
    let leases = leased(&queue).await?;
    let ends = leases.into_iter().map(async |mut lease| lease.settle(&done).await);
    futures::future::try_join_all(ends).await?;
    until_nothing_is_stored(&server).await?;
    queue.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_nothing_refers_to() -> Result<()> {
    let server = Server::start().await?;
    let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    let queue = jet::open(config, &[HopKind::Smtp]).await?;
    // One goes on, one waits in its intake, one was never committed.
    mail::send(&queue, "deferred.example", body()).await?;
    let mut deferred = lease(&queue).await?;
    let until = runtime::clock::now() + Duration::from_secs(1);
    let wake_by = until + Duration::from_secs(600);
    let defer = Disposition::Defer { until, wake_by, waiting_for: Wait::Time };
    deferred.settle(&settlement(defer)).await?;
    mail::send(&queue, "waiting.example", body()).await?;
    drop(mail::draft(&queue, body()).await?);
    let before = wait::until("the chunks of the draft", LIMIT, async || {
        stored(&server).await.ok().filter(|stored| *stored > REFERRED_TO)
    })
    .await?;
    ensure!(queue.collect_orphans(Duration::from_secs(3600)).await? == 0, "too young");
    let mut collected = 0;
    // What the draft had under way comes late.
    wait::until("nothing but what is referred to", LIMIT, async || {
        collected += queue.collect_orphans(Duration::ZERO).await.ok()?;
        (stored(&server).await.ok()? == REFERRED_TO).then_some(())
    })
    .await?;
    ensure!(collected >= before - REFERRED_TO, "{collected} of {before} went");
    for _ in 0..2 {
        let mut lease = lease(&queue).await?;
        ensure!(size(&*lease).await? == LARGE + mail::HEADER.len(), "content is whole");
        lease.settle(&settlement(Disposition::Done)).await?;
    }
    // What has ended leaves nothing.
    wait::until("its content deleted", LIMIT, async || {
        (stored(&server).await.ok()? == 0).then_some(())
    })
    .await?;
    queue.close().await;
    Ok(())
}
