//! How many octets the queue publishes for a message: its content once when it is committed, at
//! most once more, and a record for each step, whatever is done to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use mail_types::{EnhancedStatus, Host, Mailbox, Recipient, Reply, ReplyCode};
use queue::{
    Action, Attempt, Disposition, Filter, Head, HopKind, NewJob, NextHop, Queue, Settlement, Wait,
};
use queue_jetstream::JetQueue;
use tests::jet;
use tests::mail::{self, settlement};
use tests::nats::Server;
use tokio::task::unconstrained;

const ATTEMPTS: u32 = 20;
const STEP_BYTES: usize = 2048;
const STORED: [&str; 4] = ["in.>", "re.>", "job.>", "body.>"];
const END: &str = "spy.end";

/// Hears all that is published, by one connection: in the order in which the server got it.
struct Spy {
    client: Client,
    stored: Vec<Subscriber>,
    end: Subscriber,
}

impl Spy {
    async fn new(server: &Server) -> Result<Self> {
        let client = async_nats::connect(server.url()).await?;
        let mut stored = Vec::new();
        // Not one for all: that would hear what is delivered as well, by the same subjects.
        for subjects in STORED {
            stored.push(client.subscribe(subjects).await?);
        }
        let end = client.subscribe(END).await?;
        client.flush().await?;
        Ok(Self { client, stored, end })
    }

    /// Octets of content and of headers that were published into the queue's streams since.
    async fn count(&mut self) -> Result<usize> {
        self.client.publish(END, Bytes::new()).await?;
        self.end.next().await.context("the connection ended")?;
        let mut octets = 0;
        for heard in &mut self.stored {
            // All that is there, also when tokio would have others run first.
            while let Some(message) = unconstrained(heard.next()).now_or_never() {
                octets += message.context("the connection ended")?.length;
            }
        }
        Ok(octets)
    }
}

/// What a worker says after the next hop did not take it.
fn deferred(number: u32) -> Settlement {
    let now = runtime::clock::now();
    let text = "the mailbox is busy, see https://postmaster.example/busy and come again";
    let disposition = Disposition::Defer {
        until: now,
        wake_by: now + Duration::from_secs(3600),
        waiting_for: Wait::Time,
    };
    let attempt = Attempt {
        number,
        at: now,
        took_ms: 1234,
        relay: Some("mx1.mail.example[203.0.113.25]:25".into()),
        tls: Some("TLSv1.3 TLS_AES_256_GCM_SHA384".into()),
        delivered: 0,
        deferred: 1,
        bounced: 0,
        reply: Reply::new(ReplyCode::new(451), EnhancedStatus::new(4, 3, 0), text),
    };
    Settlement { attempt: Some(attempt), ..settlement(disposition) }
}

async fn act(queue: &JetQueue, action: Action) -> Result<usize> {
    let acted: Vec<_> = queue.act(Filter::default(), action).try_collect().await?;
    Ok(acted.len())
}

/// Sends a message, has every job deferred, held, released and done. Returns the count of steps.
async fn live(queue: &JetQueue, hops: u32, body: Bytes) -> Result<usize> {
    let job = |n: u32| {
        let host = Host::parse(&format!("d{n}.example"))?;
        let recipient = Recipient::new(Mailbox::parse(&format!("u@{host}"))?);
        anyhow::Ok(NewJob::new(NextHop::smtp(&host), vec![recipient]))
    };
    let mut draft = mail::draft(queue, body).await?;
    let head = Head { prefix: Bytes::new(), header: mail::HEADER.into() };
    draft.commit(head, (0..hops).map(job).collect::<Result<_>>()?).await?;
    let mut steps = 1;
    // Of several next hops each gets a record by splitting.
    steps += if hops > 1 { hops as usize } else { 0 };
    for number in 1..=ATTEMPTS {
        for _ in 0..hops {
            mail::lease(queue).await?.settle(&deferred(number)).await?;
            steps += 1;
        }
    }
    steps += act(queue, Action::Hold).await?;
    steps += act(queue, Action::Release).await?;
    for _ in 0..hops {
        mail::lease(queue).await?.settle(&settlement(Disposition::Done)).await?;
        steps += 1;
    }
    Ok(steps)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_published_twice_at_most() -> Result<()> {
    let server = Server::start().await?;
    let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    let queue = jet::open(config, &[HopKind::Smtp, HopKind::Mailbox]).await?;
    let mut spy = Spy::new(&server).await?;
    for (size, hops) in [(2_000, 1), (100_000, 1), (100_000, 5), (5_000_000, 1), (5_000_000, 5)] {
        spy.count().await?;
        let steps = live(&queue, hops, vec![b'x'; size].into()).await?;
        let octets = spy.count().await?;
        println!("{size} octets for {hops} next hops: {octets} published in {steps} steps");
        ensure!(octets > size, "the spy is deaf");
        ensure!(octets <= 2 * size + STEP_BYTES * steps, "too much for {steps} steps");
    }
    queue.close().await;
    Ok(())
}
