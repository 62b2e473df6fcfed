//! The queue on JetStream as the suite of its contract wants it: one real server that is killed at
//! every crash of the suite, or several of which one is killed each time.

use std::sync::Arc;
use std::time::Duration;

use crate::nats::Cluster;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use mail_types::{Envelope, QueueId, Timestamp};
use queue::conformance::{Fault, Harness, Settings, Step, Support, VirtualClock};
use queue::{
    AcceptError, Acted, Action, Admission, Content, ContentError, Draft, Filter, HopKind, Job,
    JobSummary, Lease, NextHop, Queue, QueueError, Stats,
};
use queue_jetstream::{Config, JetQueue, Metrics};

const LIMIT: Duration = Duration::from_secs(60);

/// Between two tries of what has no leader yet.
const PAUSE: Duration = Duration::from_millis(100);

/// The queue on so many servers.
pub struct On<const SERVERS: usize> {
    servers: Cluster,
    /// Who is killed next.
    victim: usize,
    settings: Settings,
    clock: VirtualClock,
    queue: Arc<JetQueue>,
}

fn config(servers: &Cluster, settings: &Settings) -> Config {
    const LANES: u64 = 4;
    Config {
        urls: servers.urls(),
        monitor_urls: servers.monitor_urls(),
        replicas: servers.urls().len(),
        partitions: 2,
        // The suite sends to few next hops: one lane has what it means the store to have.
        intake_bytes: LANES * settings.limit_bytes,
        reserve_bytes: settings.reserve_bytes,
        // What a crash leaves in the hands of nobody comes again after this.
        ack_wait_seconds: 1,
        timeout_seconds: 3,
        lease_seconds: settings.lease_time.as_secs(),
        tenant_messages: Some(settings.quota.messages),
        tenant_bytes: Some(settings.quota.bytes),
        ..Config::default()
    }
}

/// The output of a future that is not `Send` for all lifetimes, as the suite's must be.
fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

impl<const SERVERS: usize> On<SERVERS> {
    /// What was the dead process's is free at once, and not when its time is up.
    async fn free_partitions(&self) {
        let client = async_nats::connect(self.servers.urls()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let freeing = async {
            loop {
                if let Ok(stream) = context.get_stream("KV_own").await
                    && stream.purge().await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(LIMIT, freeing).await.expect("the partitions are free in time");
    }

    /// Opens it as a role does: what leads nothing yet is waited for.
    async fn open_queue(config: Config, clock: VirtualClock) -> Arc<JetQueue> {
        let opening = async {
            loop {
                let (config, kinds) = (config.clone(), vec![HopKind::Smtp, HopKind::Mailbox]);
                let metrics = Metrics::default();
                match JetQueue::open(config, kinds, metrics, clock.reader()).await {
                    Err(error) if error.may_pass() => tokio::time::sleep(PAUSE).await,
                    opened => return opened.unwrap(),
                }
            }
        };
        let queue = tokio::time::timeout(LIMIT, opening).await.expect("the queue is open in time");
        queue.caught_up().await.unwrap();
        Arc::new(queue)
    }
}

#[async_trait]
impl<const SERVERS: usize> Harness for On<SERVERS> {
    async fn open(_seed: u64, settings: Settings, clock: VirtualClock) -> Self {
        let servers = now(Cluster::start(SERVERS)).unwrap();
        let queue = Self::open_queue(config(&servers, &settings), clock.clone()).await;
        Self { servers, victim: 0, settings, clock, queue }
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(CaughtUp(Arc::clone(&self.queue)))
    }

    async fn crash(&mut self) {
        self.queue.halt();
        self.servers.restart(self.victim).unwrap();
        self.victim = (self.victim + 1) % SERVERS;
        now(self.servers.until_current(LIMIT)).unwrap();
        self.free_partitions().await;
        let config = config(&self.servers, &self.settings);
        self.queue = Self::open_queue(config, self.clock.clone()).await;
    }

    fn fail_next(&mut self, _step: Step, _fault: Fault) -> Support {
        Support::Unsupported
    }

    /// Puts a message with a flipped bit in the place of the one that waits in its intake.
    async fn damage(&mut self, message: QueueId) -> Support {
        self.queue.halt();
        let client = async_nats::connect(self.servers.urls()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let names = if SERVERS == 1 { &["intake-s0", "intake-s1"][..] } else { &["intake"] };
        for name in names {
            let stream = context.get_stream(*name).await.unwrap();
            let subjects = stream.info_with_subjects(format!("*.*.*.*.{message}")).await.unwrap();
            let subjects: Vec<(String, usize)> = subjects.try_collect().await.unwrap();
            for (subject, _) in subjects {
                let stored = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
                let mut payload = stored.payload.to_vec();
                let last = payload.len() - 99;
                payload[last] ^= 0x20;
                stream.delete_message(stored.sequence).await.unwrap();
                context.publish(subject, payload.into()).await.unwrap().await.unwrap();
            }
        }
        self.crash().await;
        Support::Done
    }
}

/// The queue once it knows what was committed: between processes that takes a moment.
struct CaughtUp(Arc<JetQueue>);

#[async_trait]
impl Queue for CaughtUp {
    async fn begin(
        &self,
        envelope: Envelope,
        admission: Admission,
    ) -> Result<Box<dyn Draft>, AcceptError> {
        // One after the other, so that what is first for the suite is first for the queue.
        self.0.caught_up().await.map_err(|error| AcceptError::Unavailable(error.into()))?;
        self.0.begin(envelope, admission).await
    }

    async fn lease(
        &self,
        kind: HopKind,
        max: usize,
        per_hop: usize,
    ) -> Result<Vec<Box<dyn Lease>>, QueueError> {
        self.0.caught_up().await?;
        self.0.lease(kind, max, per_hop).await
    }

    async fn lease_more(&self, hop: &NextHop) -> Result<Option<Box<dyn Lease>>, QueueError> {
        self.0.caught_up().await?;
        self.0.lease_more(hop).await
    }

    fn hop_down(&self, hop: &NextHop, until: Timestamp) {
        self.0.hop_down(hop, until);
    }

    fn hop_up(&self, hop: &NextHop) {
        self.0.hop_up(hop);
    }

    fn list(&self, filter: Filter) -> BoxStream<'static, Result<JobSummary, QueueError>> {
        let queue = Arc::clone(&self.0);
        stream::once(async move { queue.caught_up().await.map(|()| queue.list(filter)) })
            .try_flatten()
            .boxed()
    }

    async fn show(&self, message: QueueId) -> Result<Vec<Job>, QueueError> {
        self.0.caught_up().await?;
        self.0.show(message).await
    }

    async fn content(&self, message: QueueId) -> Result<Option<Content>, ContentError> {
        self.0.caught_up().await.map_err(|error| ContentError::Unavailable(error.into()))?;
        self.0.content(message).await
    }

    fn act(&self, filter: Filter, action: Action) -> BoxStream<'static, Result<Acted, QueueError>> {
        let queue = Arc::clone(&self.0);
        stream::once(async move { queue.caught_up().await.map(|()| queue.act(filter, action)) })
            .try_flatten()
            .boxed()
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        self.0.caught_up().await?;
        self.0.stats().await
    }
}
