//! What an owner has in hand, when it is as much as it may be and when it is an owner no more.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use queue::HopKind;
use tests::nats::Server;
use tests::{jet, mail, wait};

const LIMIT: Duration = Duration::from_secs(10);
/// In which nothing happens.
const A_WHILE: Duration = Duration::from_millis(300);

/// It asks for nothing then, so nothing ends what it waits for. What is leased is not parked: the
/// window stays full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_window_is_full_closes() -> Result<()> {
    let server = Server::start().await?;
    let mut config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    (config.partitions, config.window) = (1, 1);
    let queue = jet::open(config, &[HopKind::Smtp, HopKind::Mailbox]).await?;
    let send = || mail::send(&queue, "there.example", Bytes::from_static(b"body"));
    // It is waited for, and leased as it comes.
    let (held, sent) = tokio::join!(mail::lease(&queue), send());
    let (held, _) = (held?, sent?);
    send().await?;
    let mut closing = pin!(queue.close());
    let early = tokio::time::timeout(A_WHILE, &mut closing).await;
    ensure!(early.is_err(), "it closes before its leases have ended");
    drop(held);
    tokio::time::timeout(LIMIT, closing).await.context("it does not close")
}

/// Pulls from the intake of a partition, as its next owner does.
async fn pull(context: &jetstream::Context, partition: &str) -> Result<bool> {
    let names: Vec<String> = context.stream_names().try_collect().await?;
    for name in names.iter().filter(|name| name.starts_with("intake")) {
        let stream = context.get_stream(name).await?;
        let Ok(consumer) = stream.get_consumer(partition).await else { continue };
        let consumer: jetstream::consumer::PullConsumer = consumer;
        let mut messages = consumer.fetch().max_messages(1).expires(LIMIT).messages().await?;
        return Ok(messages.next().await.is_some());
    }
    anyhow::bail!("no consumer {partition}")
}

/// Its holder is told that the lease is lost, and lets go of it: then it is for others, although
/// all that is in hand is said to be worked on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_leased_when_its_partition_was_lost_goes_to_the_next_owner() -> Result<()> {
    let server = Server::start().await?;
    let mut config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    (config.partitions, config.ack_wait_seconds) = (1, 3);
    let queue = jet::open(config, &[HopKind::Smtp, HopKind::Mailbox]).await?;
    mail::send(&queue, "there.example", Bytes::from_static(b"body")).await?;
    let mut held = mail::lease(&queue).await?;
    let context = jetstream::new(async_nats::connect(server.url()).await?);
    let owners = context.get_key_value("own").await?;
    owners.put("l.s0", "another".into()).await?;
    wait::until("the partition to be lost", LIMIT, async || {
        (!queue.partitions().contains(&"s0".to_owned())).then_some(())
    })
    .await?;
    ensure!(held.extend().await.is_err(), "a lease outlives the partition");
    drop(held);
    ensure!(pull(&context, "s0").await?, "it is kept from the next owner");
    queue.close().await;
    Ok(())
}
