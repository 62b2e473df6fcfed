//! What the servers can do at most: a publisher that knows nothing of mail and none of our code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use tokio::task::JoinSet;

use super::streams;
use super::{Figures, PARTITIONS, Servers};
use crate::bench::generator;
use crate::bench::measure::percentile;

/// Messages of which the acknowledgement is waited for.
const IN_FLIGHT: usize = 64;

/// Before the clock starts.
const WARM: u64 = 1000;

/// Messages to be published.
struct Run {
    context: Context,
    name: &'static str,
    payload: Bytes,
    next: AtomicU64,
    messages: u64,
}

/// Publishes `messages` of `size_bytes`, each under an id of its own, on one connection.
pub(super) async fn publish(
    servers: &Servers,
    messages: u64,
    size_bytes: usize,
) -> Result<Figures> {
    let context = streams::connect(servers).await?;
    for partition in 0..PARTITIONS {
        streams::create(&context, servers.replicas(), &stream(partition)).await?;
    }
    // The servers compress what they replicate: what they keep must be what a mail is made of.
    let payload = Bytes::from(generator::body(size_bytes));
    send(&context, "warm", &payload, WARM).await?;
    let cpu = servers.group.cpu_seconds()?;
    let started = Instant::now();
    let latency_ms = send(&context, "run", &payload, messages).await?;
    let seconds = started.elapsed().as_secs_f64();
    let used = servers.group.cpu_seconds()? - cpu;
    let kept = streams::count(&context, &["raw"]).await?;
    let wanted = PARTITIONS + WARM + messages;
    ensure!(kept == wanted, "{kept} messages are kept of {wanted}");
    Ok(Figures::from([
        ("per_second", messages as f64 / seconds),
        ("servers_cpu_per_1000", used * 1000.0 / messages as f64),
        ("ack_p50_ms", percentile(&latency_ms, 0.50)),
        ("ack_p99_ms", percentile(&latency_ms, 0.99)),
    ]))
}

fn stream(partition: u64) -> String {
    format!("raw{partition}")
}

/// Gives how long each waited, sorted.
async fn send(
    context: &Context,
    name: &'static str,
    payload: &Bytes,
    messages: u64,
) -> Result<Vec<f64>> {
    let (context, payload) = (context.clone(), payload.clone());
    let run = Arc::new(Run { context, name, payload, next: AtomicU64::new(0), messages });
    let mut publishers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        publishers.spawn(publish_some(Arc::clone(&run)));
    }
    let mut latency_ms = Vec::new();
    while let Some(ended) = publishers.join_next().await {
        latency_ms.extend(ended??);
    }
    latency_ms.sort_by(f64::total_cmp);
    Ok(latency_ms)
}

async fn publish_some(run: Arc<Run>) -> Result<Vec<f64>> {
    let mut latency_ms = Vec::new();
    loop {
        let number = run.next.fetch_add(1, Ordering::Relaxed);
        if number >= run.messages {
            return Ok(latency_ms);
        }
        let id = format!("{}-{number}", run.name);
        let subject = format!("{}.{id}", stream(number % PARTITIONS));
        let message = PublishMessage::build().payload(run.payload.clone()).message_id(id);
        let begun = Instant::now();
        let acknowledged = run.context.send_publish(subject, message).await?.await;
        let acknowledged = acknowledged.context("a message was not acknowledged")?;
        ensure!(!acknowledged.duplicate, "an id was used twice");
        latency_ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
}
