//! A job that an operator acts on while it is leased: it goes from its intake to a record under the
//! hands of whoever has leased it, who delivers it all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use queue::{ActResult, Action, Disposition, Filter, HopKind, Job, Lease, Phase, Queue, Wait};
use queue_jetstream::JetQueue;
use tests::jet;
use tests::mail::{self, HEADER, lease, settlement};
use tests::nats::Server;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(30);
/// Inline, and in chunks.
const SIZES: [usize; 2] = [100, 1 << 20];

async fn content(lease: &dyn Lease) -> Result<Bytes> {
    let chunks: Vec<Bytes> = lease.content().await?.chunks.try_collect().await?;
    Ok(chunks
        .iter()
        .fold(BytesMut::new(), |mut all, chunk| {
            all.extend_from_slice(chunk);
            all
        })
        .freeze())
}

async fn act(queue: &JetQueue, action: Action) -> Result<Vec<ActResult>> {
    let acted: Vec<_> = queue.act(Filter::default(), action).try_collect().await?;
    Ok(acted.into_iter().map(|acted| acted.result).collect())
}

/// Messages in the streams of a prefix.
async fn count(context: &jetstream::Context, prefix: &str) -> Result<u64> {
    let names: Vec<String> = context.stream_names().try_collect().await?;
    let mut messages = 0;
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        messages += context.get_stream(name).await?.info().await?.state.messages;
    }
    Ok(messages)
}

async fn only_job(queue: &JetQueue) -> Result<Job> {
    let listed: Vec<_> = queue.list(Filter::default()).try_collect().await?;
    ensure!(listed.len() == 1, "{listed:?}");
    queue.show(listed[0].id.message).await?.pop().context("it is no more")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_moved_while_it_is_leased_is_delivered() -> Result<()> {
    for size in SIZES {
        let server = Server::start().await?;
        let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
        let queue = jet::open(config, &[HopKind::Smtp, HopKind::Mailbox]).await?;
        let context = jetstream::new(async_nats::connect(server.url()).await?);
        let body = vec![b'x'; size];
        let whole = [HEADER.as_bytes(), &body].concat();
        mail::send(&queue, "there.example", body.into()).await?;
        let mut leased = lease(&queue).await?;
        ensure!(act(&queue, Action::Hold).await? == [ActResult::Requested], "{size}: hold");
        ensure!(count(&context, "jobs-").await? == 1, "{size}: it has no record");
        wait::until("its end in the intake", LIMIT, async || {
            (count(&context, "intake-").await.ok()? == 0).then_some(())
        })
        .await?;
        ensure!(content(&*leased).await? == whole, "{size}: its content is another");
        leased.extend().await?;

        // What was recorded is known, and then it is held.
        let until = runtime::clock::now() + Duration::from_secs(3600);
        let defer = Disposition::Defer { until, wake_by: until, waiting_for: Wait::Time };
        leased.settle(&settlement(defer)).await?;
        drop(leased);
        let held = only_job(&queue).await?;
        ensure!(held.phase == Phase::Held, "{size}: {held:?}");

        // The same, of a job that had a record when it was leased.
        ensure!(act(&queue, Action::Release).await? == [ActResult::Done], "{size}: release");
        ensure!(act(&queue, Action::RetryNow).await? == [ActResult::Done], "{size}: retry");
        let mut leased = lease(&queue).await?;
        ensure!(act(&queue, Action::Hold).await? == [ActResult::Requested], "{size}: hold again");
        ensure!(content(&*leased).await? == whole, "{size}: its content is another by now");
        leased.settle(&settlement(Disposition::Done)).await?;
        ensure!(queue.stats().await?.messages == 0, "{size}: it is there still");
        wait::until("its content to be gone", LIMIT, async || {
            (count(&context, "body-").await.ok()? == 0).then_some(())
        })
        .await?;
        queue.close().await;
    }
    Ok(())
}
