//! Sends messages: in a closed loop as fast as they are accepted, or in an open loop at a rate.
//!
//! Every message carries `X-Bench-Id: RUN-SEQ`, so that the sink tells loss and duplicates from
//! slowness.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, Failure};
use super::scenario::Load;

/// No message is started after this long.
const RUN_MAX: Duration = Duration::from_secs(90);

/// Different recipients.
const USERS: u64 = 100;

/// Where messages go and how they are marked.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) address: SocketAddr,
    /// The domain of the recipients, who are `user0` to `user99`.
    pub(super) domain: &'a str,
    pub(super) run: &'a str,
}

/// What became of the messages.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) started: Instant,
    pub(super) seconds: f64,
    /// When each was accepted.
    pub(super) accepted: Vec<(u64, Instant)>,
    /// From when it was begun, or due, to its `250`; sorted.
    pub(super) latency_ms: Vec<f64>,
    pub(super) failed: u64,
    pub(super) reconnects: u64,
    pub(super) first_failure: Option<String>,
}

/// Sends all of `load` from as many threads as it has sessions.
pub(super) fn send(load: &Load, target: Target<'_>) -> Sent {
    let run = Run {
        load,
        target,
        body: body(load.size_bytes),
        started: Instant::now(),
        next: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        reconnects: AtomicU64::new(0),
        first_failure: Mutex::new(None),
    };
    let done: Vec<(u64, Instant, f64)> = std::thread::scope(|scope| {
        let sessions: Vec<_> =
            (0..load.sessions).map(|_| scope.spawn(|| Worker::new(&run).work())).collect();
        sessions.into_iter().flat_map(|session| session.join().unwrap_or_default()).collect()
    });
    let mut latency_ms: Vec<f64> = done.iter().map(|(_, _, latency)| *latency).collect();
    latency_ms.sort_by(f64::total_cmp);
    Sent {
        started: run.started,
        seconds: run.started.elapsed().as_secs_f64(),
        accepted: done.into_iter().map(|(sequence, at, _)| (sequence, at)).collect(),
        latency_ms,
        failed: run.failed.into_inner(),
        reconnects: run.reconnects.into_inner(),
        first_failure: run.first_failure.into_inner().unwrap_or_default(),
    }
}

struct Run<'a> {
    load: &'a Load,
    target: Target<'a>,
    body: Vec<u8>,
    started: Instant,
    next: AtomicU64,
    failed: AtomicU64,
    reconnects: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Run<'_> {
    /// The next message and when it is due, waited for; `None` at the end.
    fn next(&self) -> Option<(u64, Instant)> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        if sequence >= self.load.messages || self.started.elapsed() > RUN_MAX {
            return None;
        }
        let Some(rate) = self.load.per_second else { return Some((sequence, Instant::now())) };
        let due = self.started + Duration::from_secs_f64(sequence as f64 / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // Latency counts from when it was due: no coordinated omission.
        Some((sequence, due))
    }

    fn note(&self, failure: &Failure) {
        if let Ok(mut first) = self.first_failure.lock() {
            first.get_or_insert_with(|| failure.to_string());
        }
    }
}

/// One session at a time.
struct Worker<'a> {
    run: &'a Run<'a>,
    client: Option<Client>,
    sent_in_session: u64,
    message: Vec<u8>,
}

impl<'a> Worker<'a> {
    const fn new(run: &'a Run<'a>) -> Self {
        Self { run, client: None, sent_in_session: 0, message: Vec::new() }
    }

    fn work(mut self) -> Vec<(u64, Instant, f64)> {
        let mut done = Vec::new();
        while let Some((sequence, begun)) = self.run.next() {
            match self.send_one(sequence) {
                Ok(at) => done.push((sequence, at, (at - begun).as_secs_f64() * 1e3)),
                Err(failure) => {
                    self.run.note(&failure);
                    self.run.failed.fetch_add(1, Ordering::Relaxed);
                    self.client = None;
                }
            }
        }
        if let Some(client) = self.client {
            client.quit();
        }
        done
    }

    fn send_one(&mut self, sequence: u64) -> Result<Instant, Failure> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect(sequence)?,
        };
        let Target { domain, run, .. } = self.run.target;
        // In one piece (RFC 2920, RFC 3030), as our delivery sends it on and Exim does.
        let user = sequence % USERS;
        let header = header(run, sequence);
        let octets = header.len() + self.run.body.len();
        let commands = format!(
            "MAIL FROM:<bench@client.bench.test>\r\nRCPT TO:<user{user}@{domain}>\r\n\
             BDAT {octets} LAST\r\n"
        );
        self.message.clear();
        self.message.extend_from_slice(commands.as_bytes());
        self.message.extend_from_slice(header.as_bytes());
        self.message.extend_from_slice(&self.run.body);
        client.write(&self.message)?;
        client.expect('2')?;
        client.expect('2')?;
        client.expect('2')?;
        let at = Instant::now();
        self.sent_in_session += 1;
        if self.run.load.messages_per_session.is_some_and(|max| self.sent_in_session >= max) {
            client.quit();
        } else {
            self.client = Some(client);
        }
        Ok(at)
    }

    /// As a mail client does, comes back when the connection is refused or reset.
    fn connect(&mut self, sequence: u64) -> Result<Client, Failure> {
        self.sent_in_session = 0;
        let mut attempts = 0;
        loop {
            match Client::open(self.run.target.address, sequence) {
                Ok(client) => return Ok(client),
                Err(failure) if attempts == 4 => return Err(failure),
                Err(failure) => {
                    self.run.note(&failure);
                    self.run.reconnects.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20 << attempts));
                    attempts += 1;
                }
            }
        }
    }
}

fn header(run: &str, sequence: u64) -> String {
    format!(
        "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nFrom: <bench@client.bench.test>\r\n\
         To: <user@sink.test>\r\nSubject: benchmark message\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         Message-ID: <{run}-{sequence}@client.bench.test>\r\nX-Bench-Id: {run}-{sequence}\r\n"
    )
}

/// Lines of 76 characters that do not compress, to `size` octets with the header.
pub(super) fn body(size: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let header = header("run", 1000).len();
    let mut state: u32 = 12345;
    let mut body = b"\r\n".to_vec();
    while header + body.len() + 80 < size {
        for _ in 0..76 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            body.push(ALPHABET[(state >> 26) as usize]);
        }
        body.extend_from_slice(b"\r\n");
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sink::Sink;

    #[test]
    fn a_message_has_about_the_size_that_was_asked_for() {
        for size in [10_240, 5 << 20] {
            let made = header("run", 1000).len() + body(size).len();
            assert!((size - 160..=size).contains(&made), "{made}");
        }
    }

    #[test]
    fn every_message_arrives_at_the_sink_once() {
        let sink = Sink::start("127.0.0.1:0".parse().unwrap()).unwrap();
        sink.reset("t");
        let load = Load {
            messages: 60,
            size_bytes: 2048,
            sessions: 3,
            messages_per_session: Some(7),
            per_second: None,
        };
        let target = Target { address: sink.address(), domain: "sink.test", run: "t" };
        let sent = send(&load, target);
        assert_eq!(sent.first_failure, None);
        assert_eq!(sent.accepted.len(), 60);
        let arrived = sink.arrived();
        assert_eq!((arrived.at.len(), arrived.duplicates, arrived.strangers), (60, 0, 0));
    }
}
