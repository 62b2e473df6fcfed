//! A sender who looks at the clock: one message after the other at a steady rate, whatever else
//! goes on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::flood;
use crate::load::SENDER;
use crate::process::PASSWORD;
use crate::sink::Sink;
use crate::wait;

/// How long the last message may take to its sink.
const LIMIT: Duration = Duration::from_secs(60);

/// A message of the probe.
#[derive(Debug, Clone)]
struct Sample {
    recipient: String,
    began: Instant,
    accepted: Instant,
}

/// Sends until stopped.
pub struct Probe {
    stop: CancellationToken,
    session: JoinSet<Result<Vec<Sample>>>,
}

/// How long messages took, sorted.
#[derive(Debug, Clone)]
pub struct Taken {
    /// From MAIL to the `250` of the content.
    pub to_accept: Vec<Duration>,
    /// From there to the sink.
    pub to_deliver: Vec<Duration>,
}

impl Probe {
    /// Logs in and begins: recipients are `NAME-n@good.test`.
    pub async fn start(address: SocketAddr, name: &str, every: Duration) -> Result<Self> {
        let client = Client::submission(address, SENDER, PASSWORD).await?;
        let stop = CancellationToken::new();
        let mut session = JoinSet::new();
        session.spawn(send(client, name.to_owned(), every, stop.clone()));
        Ok(Self { stop, session })
    }

    /// Waits until all that was sent has arrived.
    pub async fn stop(mut self, sink: &Sink) -> Result<Taken> {
        self.stop.cancel();
        let samples = self.session.join_next().await.context("no session")???;
        let mut to_deliver = wait::until("the messages of the probe", LIMIT, async || {
            let received = sink.received();
            let arrivals: HashMap<&str, Instant> =
                received.iter().map(|one| (&*one.recipients[0], one.at)).collect();
            let took = |sample: &Sample| {
                let arrived = arrivals.get(&*sample.recipient)?;
                Some(arrived.saturating_duration_since(sample.accepted))
            };
            samples.iter().map(took).collect::<Option<Vec<_>>>()
        })
        .await?;
        let mut to_accept: Vec<_> = samples.iter().map(|one| one.accepted - one.began).collect();
        to_accept.sort();
        to_deliver.sort();
        Ok(Taken { to_accept, to_deliver })
    }
}

async fn send(
    mut client: Client,
    name: String,
    every: Duration,
    stop: CancellationToken,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(every);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let recipient = format!("{name}-{}@good.test", samples.len());
        let began = Instant::now();
        let content = format!("From: <{SENDER}>\r\nSubject: probe\r\n\r\nbody\r\n");
        flood::message(&mut client, std::slice::from_ref(&recipient), content.as_bytes()).await?;
        samples.push(Sample { recipient, began, accepted: Instant::now() });
    }
    Ok(samples)
}

/// The value that `percent` of the sorted ones do not exceed; zero when there are none.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}
