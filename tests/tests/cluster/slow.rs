//! A destination that takes long after the final dot gets its mail once: for so long the queue
//! gives it to nobody else.
//!
//! With `--long` it takes nearly the 10 minutes that RFC 5321 §4.5.3.2.6 grants; else the times
//! after which others would take over are short.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::flood;
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::process::PASSWORD;
use tests::sink::{Moment, Sink, Whim};
use tests::{scenario, wait};

/// What is deferred first is then tried out of its record, the other out of its intake.
const RECIPIENTS: [&str; 3] = ["at-once@a.slow.test", "defer-1@b.slow.test", "at-once@c.slow.test"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_destination_gets_its_mail_once() -> Result<()> {
    let (takes, ack_wait) = match scenario::is_long() {
        true => (Duration::from_secs(590), 120),
        false => (Duration::from_secs(8), 2),
    };
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let whims = move |moment| {
        (moment == Moment::FinalDot).then(|| {
            counted.fetch_add(1, Ordering::SeqCst);
            Whim::Wait(takes)
        })
    };
    let loopback = "127.0.0.1:0".parse()?;
    let sink = Sink::with_whims(loopback, scenario::verdict(), Arc::new(whims)).await?;
    let dir = tempfile::tempdir()?;
    let times = [format!("ackWaitSeconds: {ack_wait}"), "ownershipTtlSeconds: 2".into()];
    let size = Size { servers: 1, ingresses: 1, workers: 2, ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), Size { jetstream: times.into(), ..size }, &sink).await?;
    let address = mesh.ingresses[0].address("submission");
    let mut client = Client::submission(address, SENDER, PASSWORD).await?;
    for recipient in RECIPIENTS {
        let content = format!("From: <{SENDER}>\r\nSubject: slow\r\n\r\nbody\r\n");
        flood::message(&mut client, &[recipient.to_owned()], content.as_bytes()).await?;
    }
    let begun = Instant::now();
    wait::until("the end of the queue", takes + Duration::from_secs(60), async || {
        let list = mesh.workers[0].cli(&["queue", "list", "--output", "json"]).await.ok()?;
        list.is_empty().then_some(())
    })
    .await?;
    let attempts = attempts.load(Ordering::SeqCst);
    println!("{takes:?} after the final dot, ackWaitSeconds {ack_wait}: {attempts} attempts");
    ensure!(begun.elapsed() >= takes, "nobody waited for the destination");
    ensure!(attempts == RECIPIENTS.len(), "{attempts} attempts for {} messages", RECIPIENTS.len());
    ensure!(sink.count() == RECIPIENTS.len(), "{} messages", sink.count());
    mesh.stop(Duration::from_secs(60)).await
}
