//! A job that has ended without its owner's hearing of it is gone, not damaged; a message that a
//! server brings back is not delivered again.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures::TryStreamExt;
use queue::{Disposition, Filter, HopKind, JobSummary, Queue, Wait};
use tests::jet;
use tests::mail::{self, lease, settlement};
use tests::nats::Server;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(30);
const JOBS: usize = 20;

/// Ends every job as another process would, and keeps the owner from hearing of it: its consumers
/// are gone, as with a server that died, and it notices when they have been silent for long.
async fn end_behind_its_back(server: &Server) -> Result<()> {
    let client = async_nats::connect(server.url()).await?;
    let context = async_nats::jetstream::new(client);
    let names: Vec<String> = context.stream_names().try_collect().await?;
    for name in names.iter().filter(|name| name.starts_with("jobs-")) {
        let stream = context.get_stream(name).await?;
        let consumers: Vec<String> = stream.consumer_names().try_collect().await?;
        for consumer in consumers {
            stream.delete_consumer(&consumer).await?;
        }
        let mut subjects = stream.info_with_subjects(">").await?;
        while let Some((subject, _)) = subjects.try_next().await? {
            let last = stream.get_last_raw_message_by_subject(&subject).await?;
            let mut headers = HeaderMap::new();
            let expected = last.sequence.to_string();
            headers.insert("Nats-Expected-Last-Subject-Sequence", expected.as_str());
            context.publish_with_headers(subject, headers, Bytes::new()).await?.await?;
        }
    }
    Ok(())
}

/// The stream of an intake that holds a message.
async fn filled_intake(server: &Server) -> Result<Stream> {
    let context = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    wait::until("a message in an intake", LIMIT, async || {
        let names: Vec<String> = context.stream_names().try_collect().await.ok()?;
        for name in names.iter().filter(|name| name.starts_with("intake")) {
            let stream = context.get_stream(name).await.ok()?;
            if stream.cached_info().state.messages > 0 {
                return Some(stream);
            }
        }
        None
    })
    .await
}

async fn is_empty(intake: &Stream) -> Result<()> {
    wait::until("an empty intake", LIMIT, async || {
        (intake.get_info().await.ok()?.state.messages == 0).then_some(())
    })
    .await
}

/// The message lies in its intake again, for the first time as far as the server knows: so it is
/// after a leader that had answered an acknowledgement failed before the others heard of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_brings_back_is_not_delivered_again() -> Result<()> {
    let server = Server::start().await?;
    let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    let queue = jet::open(config, &[HopKind::Smtp, HopKind::Mailbox]).await?;
    mail::send(&queue, "once.example", Bytes::from_static(b"body")).await?;
    let mut first = lease(&queue).await?;
    let intake = filled_intake(&server).await?;
    let sequence = intake.cached_info().state.first_sequence;
    let stored = intake.get_raw_message(sequence).await?;
    first.settle(&settlement(Disposition::Done)).await?;
    is_empty(&intake).await?;

    let context = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    context.publish(stored.subject, stored.payload).await?.await?;
    is_empty(&intake).await?;
    mail::send(&queue, "last.example", Bytes::from_static(b"body")).await?;
    let mut last = lease(&queue).await?;
    ensure!(last.job().next_hop.key() == "last.example", "it is delivered again");
    last.settle(&settlement(Disposition::Done)).await?;
    ensure!(queue.stats().await?.messages == 0, "something is left");
    queue.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_has_ended_is_not_quarantined() -> Result<()> {
    let server = Server::start().await?;
    let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    // All kinds: nobody else answers for what is listed.
    let queue = jet::open(config, &[HopKind::Smtp, HopKind::Mailbox]).await?;
    let until = runtime::clock::now() + Duration::from_secs(4);
    let wake_by = until + Duration::from_secs(600);
    let defer = settlement(Disposition::Defer { until, wake_by, waiting_for: Wait::Time });
    for n in 0..JOBS {
        mail::send(&queue, &format!("d{n}.example"), Bytes::from_static(b"body")).await?;
        lease(&queue).await?.settle(&defer).await?;
    }
    end_behind_its_back(&server).await?;
    // One more, to have something to lease when the others turn out to be gone.
    wait::until("their time", LIMIT, async || (runtime::clock::now() > until).then_some(()))
        .await?;
    mail::send(&queue, "last.example", Bytes::from_static(b"body")).await?;
    let mut last = lease(&queue).await?;
    ensure!(last.job().next_hop.key() == "last.example", "an ended job is leased");
    last.settle(&settlement(Disposition::Done)).await?;
    wait::until("an empty queue", LIMIT, async || {
        let jobs: Vec<JobSummary> = queue.list(Filter::default()).try_collect().await.ok()?;
        jobs.is_empty().then_some(())
    })
    .await?;
    ensure!(queue.stats().await?.quarantined == 0, "what has ended is quarantined");
    queue.close().await;
    Ok(())
}
