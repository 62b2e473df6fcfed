//! A sender who looks at the clock: one message after the other at the times it was told,
//! whatever else goes on.

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
    /// Logs in and begins: recipients are `NAME-n@good.test`. `gaps` lie between the beginnings of
    /// two messages; who is late hurries.
    pub async fn start(
        address: SocketAddr,
        name: &str,
        gaps: impl Iterator<Item = Duration> + Send + 'static,
    ) -> Result<Self> {
        let client = Client::submission(address, SENDER, PASSWORD).await?;
        let stop = CancellationToken::new();
        let mut session = JoinSet::new();
        session.spawn(send(client, name.to_owned(), gaps, stop.clone()));
        Ok(Self { stop, session })
    }

    /// Sends no more, and waits until all that was sent has arrived.
    pub async fn stop(self, sink: &Sink) -> Result<Taken> {
        self.stop.cancel();
        self.ended(sink).await
    }

    /// Waits until there are no gaps any more, and all has arrived.
    pub async fn ended(mut self, sink: &Sink) -> Result<Taken> {
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
    gaps: impl Iterator<Item = Duration>,
    stop: CancellationToken,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut due = tokio::time::Instant::now();
    for gap in gaps {
        if stop.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
            break;
        }
        due += gap;
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
