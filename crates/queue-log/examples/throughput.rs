//! How fast the log is on this disk: `cargo run --release -p queue-log --example throughput [DIR]`.
//!
//! Writers commit 10 KB messages; then as many workers lease, read and settle them. With
//! `memory [DIR]` instead: what a million jobs cost in memory, and how long they take to reopen.

#![allow(clippy::print_stdout, clippy::unwrap_used)] // a tool for us; an error ends it

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use mail_types::{
    BodyType, Envelope, Mailbox, Origin, Recipient, ReversePath, TenantId, Timestamp,
};
use queue::{Admission, Disposition, Head, HopKind, NewJob, NextHop, Queue, Settlement};
use queue_log::{Config, LogQueue, Metrics};

const BODY_BYTES: usize = 10_000;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let memory = args.first().is_some_and(|arg| arg == "memory");
    if memory {
        args.remove(0);
    }
    let base = args.pop().map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if memory {
        runtime.block_on(measure_memory(base.join("queue-log-memory")));
        return;
    }
    println!("writers  commits/s  µs CPU each  through/s  µs CPU each");
    for (writers, messages) in [(1, 2_000), (16, 20_000), (64, 100_000)] {
        let dir = base.join(format!("queue-log-throughput-{writers}"));
        runtime.block_on(measure(dir, writers, messages));
    }
}

async fn measure(dir: PathBuf, writers: usize, messages: usize) {
    let commits = run(&dir, writers, 0, messages).await;
    let through = run(&dir, writers, writers, messages).await;
    println!("{writers:>7}  {commits}  {through}");
}

/// Commits, and settles at the same time when there are workers.
async fn run(dir: &std::path::Path, writers: usize, workers: usize, messages: usize) -> String {
    let _ = std::fs::remove_dir_all(dir);
    let queue = Arc::new(open(dir));
    let all = messages / writers * writers;
    let settled = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let start = Measure::start();
    let writing = parallel(writers, |_| {
        let queue = Arc::clone(&queue);
        async move {
            for _ in 0..messages / writers {
                commit(&queue, BODY_BYTES).await;
            }
        }
    });
    let working = parallel(workers, |_| {
        let (queue, settled) = (Arc::clone(&queue), Arc::clone(&settled));
        async move { while drain(&queue, &settled, all).await {} }
    });
    tokio::join!(writing, working);
    let measured = start.stop(messages);
    queue.close().await;
    std::fs::remove_dir_all(dir).unwrap();
    measured
}

/// Leases, reads and settles one message; returns whether there is more.
async fn drain(queue: &LogQueue, settled: &std::sync::atomic::AtomicUsize, all: usize) -> bool {
    use std::sync::atomic::Ordering::Relaxed;
    if settled.load(Relaxed) >= all {
        return false;
    }
    let lease = queue.lease(HopKind::Smtp, 1, usize::MAX);
    let Ok(leases) = tokio::time::timeout(Duration::from_millis(100), lease).await else {
        return true;
    };
    for mut lease in leases.unwrap() {
        let mut content = lease.content().await.unwrap();
        while let Some(chunk) = content.chunks.next().await {
            chunk.unwrap();
        }
        lease.settle(&done()).await.unwrap();
        settled.fetch_add(1, Relaxed);
    }
    true
}

async fn measure_memory(dir: PathBuf) {
    const JOBS: u64 = 1_000_000;
    let _ = std::fs::remove_dir_all(&dir);
    let queue = Arc::new(open_with(&dir, 0));
    let before = resident_bytes();
    parallel(256, |_| {
        let queue = Arc::clone(&queue);
        async move {
            for _ in 0..JOBS / 256 {
                commit(&queue, 100).await;
            }
        }
    })
    .await;
    let jobs = queue.stats().await.unwrap().messages;
    println!("{} octets a job", (resident_bytes() - before) / jobs);
    drop(queue);
    let start = Instant::now();
    let queue = open(&dir);
    println!("reopened after a crash in {:.1?}", start.elapsed());
    queue.close().await;
    let start = Instant::now();
    let queue = open(&dir);
    println!("reopened after a close in {:.1?}", start.elapsed());
    drop(queue);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn open(dir: &std::path::Path) -> LogQueue {
    open_with(dir, Config::default().cache_bytes)
}

fn open_with(dir: &std::path::Path, cache_bytes: u64) -> LogQueue {
    let config = Config { cache_bytes, ..Config::default() };
    LogQueue::open(dir, config, Metrics::default(), now).unwrap()
}

#[allow(clippy::disallowed_methods)] // the example is a process of its own
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_ms(0) + since
}

async fn parallel<F: Future<Output = ()> + Send + 'static>(
    count: usize,
    work: impl Fn(usize) -> F,
) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        tasks.spawn(work(n));
    }
    tasks.join_all().await;
}

async fn commit(queue: &LogQueue, body_bytes: usize) {
    let envelope = Envelope {
        reverse_path: ReversePath::parse("sender@example.org").unwrap(),
        envid: None,
        ret: None,
        body: BodyType::EightBitMime,
        smtputf8: false,
        arrival: now(),
        expires: now() + Duration::from_secs(432_000),
        tenant: TenantId::new("acme"),
        identity: None,
        origin: Origin::Internal,
        trace_parent: None,
    };
    let recipient = Recipient::new(Mailbox::parse("user@example.net").unwrap());
    let next_hop = NextHop::smtp(recipient.address.host());
    let mut draft = queue.begin(envelope, Admission::Outside).await.unwrap();
    draft.write(Bytes::from(vec![b'x'; body_bytes])).await.unwrap();
    let head = Head {
        prefix: Bytes::from_static(b"Received: from a by b\r\n"),
        header: Bytes::from_static(b"Subject: a test\r\n\r\n"),
    };
    draft.commit(head, vec![NewJob::new(next_hop, vec![recipient])]).await.unwrap();
}

fn done() -> Settlement {
    Settlement {
        attempt: None,
        progress: Vec::new(),
        disposition: Disposition::Done,
        follow_ups: Vec::new(),
        delay_reported: false,
    }
}

struct Measure {
    start: Instant,
    cpu: Duration,
}

impl Measure {
    fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu_time() }
    }

    /// Operations per second, and CPU time of each.
    fn stop(&self, operations: usize) -> String {
        let count = u32::try_from(operations).unwrap();
        let rate = f64::from(count) / self.start.elapsed().as_secs_f64();
        let cpu = (cpu_time() - self.cpu) / count;
        format!("{rate:>9.0}  {:>11.1}", cpu.as_secs_f64() * 1e6)
    }
}

/// Of this process, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
