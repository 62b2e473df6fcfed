//! The streams on the servers: how much is in them, and away with them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy};
use futures::TryStreamExt;

use super::servers::Servers;

/// Until all servers know each other, none can be made.
const CREATE_MAX: Duration = Duration::from_secs(30);

pub(super) async fn connect(servers: &Servers) -> Result<Context> {
    let client = async_nats::connect(servers.urls()).await.context("cannot reach nats-server")?;
    Ok(async_nats::jetstream::new(client))
}

/// A work queue, as the queue's intakes are; with one message, by which it is known that the server
/// of the connection has heard of it.
pub(super) async fn create(context: &Context, replicas: u16, name: &str) -> Result<()> {
    let config = stream::Config {
        name: name.to_owned(),
        subjects: vec![format!("{name}.>")],
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        num_replicas: usize::from(replicas),
        ..Default::default()
    };
    let started = Instant::now();
    while let Err(error) = context.create_stream(config.clone()).await {
        ensure!(started.elapsed() < CREATE_MAX, "cannot create the stream {name}: {error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    while let Err(error) = store(context, format!("{name}.first")).await {
        ensure!(started.elapsed() < CREATE_MAX, "the stream {name} takes nothing: {error:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn store(context: &Context, subject: String) -> Result<()> {
    context.publish(subject, "".into()).await?.await?;
    Ok(())
}

/// Messages in all streams whose names begin with one of `prefixes`.
pub(super) async fn count(context: &Context, prefixes: &[&str]) -> Result<u64> {
    let mut messages = 0;
    for name in names(context).await? {
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            let mut stream = context.get_stream(&name).await?;
            messages += stream.info().await?.state.messages;
        }
    }
    Ok(messages)
}

/// What is in these streams, and what their consumers have of it.
pub(super) async fn describe(context: &Context, prefixes: &[&str]) -> Result<Vec<String>> {
    let mut described = Vec::new();
    for name in names(context).await? {
        let mut stream = context.get_stream(&name).await?;
        let messages = stream.info().await?.state.messages;
        if messages == 0 || !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut text = format!("{name} has {messages}");
        let mut consumers = stream.consumers();
        while let Some(consumer) = consumers.try_next().await? {
            text += &format!(
                ", {} of it not acknowledged, {} not delivered, {} delivered again, {} pulls",
                consumer.num_ack_pending,
                consumer.num_pending,
                consumer.num_redelivered,
                consumer.num_waiting
            );
        }
        described.push(text);
    }
    Ok(described)
}

/// Also the buckets.
pub(super) async fn delete_all(context: &Context) -> Result<()> {
    for name in names(context).await? {
        context.delete_stream(&name).await?;
    }
    Ok(())
}

async fn names(context: &Context) -> Result<Vec<String>> {
    Ok(context.stream_names().try_collect().await?)
}
