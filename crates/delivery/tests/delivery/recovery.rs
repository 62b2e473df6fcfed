//! A dead destination costs one probe at a time; recovered, its backlog flows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use delivery::{Config, Delivery, Metrics, Setup};
use domains::{AtHome, Table};
use mail_types::Host;
use outcome::Route;
use prometheus_client::registry::Registry;
use queue::simulated::{Settings, SimulatedQueue};
use queue::{Admission, Head, NewJob, Queue};
use retry::Policy;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::peer::{Peer, Script, say_and_close};
use crate::world::{LEASE, job, route_to};

const WAITING: usize = 10_000;
const PER_HOP: usize = 20;

async fn fill(queue: &SimulatedQueue) {
    for _ in 0..WAITING {
        let job = job(&["a@there.example"]);
        let envelope = (*job.envelope).clone();
        let mut draft = queue.begin(envelope, Admission::Outside).await.unwrap();
        draft.write(Bytes::from_static(b"body\r\n")).await.unwrap();
        let header = Bytes::from_static(b"Subject: x\r\n\r\n");
        let recipients = vec![job.recipients[0].recipient.clone()];
        let jobs = vec![NewJob::new(job.next_hop, recipients)];
        draft.commit(Head { prefix: Bytes::new(), header }, jobs).await.unwrap();
    }
}

/// Looks at `condition` now and again, up to a deadline.
async fn until(what: &str, limit: Duration, condition: impl Fn() -> bool) {
    let waiting = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while !condition() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_wait_for_one_probe_and_then_flow() {
    let down = Script { greeting: say_and_close("421 4.3.2 down\n"), ..Script::default() };
    let peer = Peer::start(down).await;
    let queue = SimulatedQueue::new(1, Settings::default(), runtime::clock::now);
    fill(&queue).await;
    let policy = Policy { intervals_seconds: vec![1], repeat_seconds: 1, ..Policy::default() };
    let config = Config {
        routes: vec![route_to(&peer)],
        connections_per_destination_max: PER_HOP,
        retry: policy,
        ..Config::default()
    };
    let setup = Setup {
        queue: Arc::new(queue.clone()),
        resolver: Arc::new(resolve::Fake::default()),
        domains: Arc::new(ArcSwapOption::from_pointee(Table::default())),
        absence: Arc::new(AtHome),
        name: Host::parse("us.example").unwrap(),
        route: Route::new(|_| Vec::new()),
        lease: LEASE,
        metrics: Metrics::register(&mut Registry::default()),
    };
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let delivery = Delivery::new(config, setup).unwrap();
    tasks.spawn(delivery.run(shutdown.clone(), Duration::from_secs(5)));

    // Those under way when the first fails; then one at a time, a second apart.
    until("no probes", Duration::from_secs(20), || peer.connections() >= PER_HOP + 2).await;
    let (before, since) = (peer.connections(), Instant::now());
    until("no probe", Duration::from_secs(20), || peer.connections() >= before + 3).await;
    assert!(since.elapsed() > Duration::from_millis(1_700), "one probe for each interval");
    assert!(peer.messages().is_empty());

    peer.set_script(Script::default());
    let recovered = Instant::now();
    until("the backlog does not flow", Duration::from_secs(60), || {
        peer.messages_count() >= WAITING
    })
    .await;
    let took = recovered.elapsed();
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.messages, peer.messages_count()), (0, WAITING), "{took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
}
