//! The queue of this process: the embedded log, or the one on JetStream.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use queue::Queue;
use queue::census::Census;
use queue_jetstream::{JetQueue, OpenError};
use queue_log::LogQueue;
use runtime::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, refused};
use crate::serve::Role;

/// Between two tries to reach the servers.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) enum Backend {
    Log(Arc<LogQueue>),
    JetStream(Arc<JetQueue>),
}

impl Backend {
    pub(crate) fn queue(&self) -> Arc<dyn Queue> {
        match self {
            Self::Log(queue) => Arc::clone(queue) as Arc<dyn Queue>,
            Self::JetStream(queue) => Arc::clone(queue) as Arc<dyn Queue>,
        }
    }

    /// What this process has of the queue, counted.
    pub(crate) fn census(&self) -> Census {
        match self {
            Self::Log(queue) => queue.census(),
            Self::JetStream(queue) => queue.census(),
        }
    }

    /// Does what is under way and gives the rest to others.
    pub(crate) async fn close(&self) {
        match self {
            Self::Log(queue) => queue.close().await,
            Self::JetStream(queue) => queue.close().await,
        }
    }
}

/// What is counted of the queue that the configuration chooses.
pub(crate) enum Metrics {
    Log(queue_log::Metrics),
    JetStream(queue_jetstream::Metrics),
}

impl Metrics {
    pub(crate) fn register(config: &Config, registry: &mut Registry) -> Self {
        if config.jetstream.is_some() {
            let metrics = queue_jetstream::Metrics::default();
            metrics.register(registry);
            return Self::JetStream(metrics);
        }
        let metrics = queue_log::Metrics::default();
        metrics.register(registry);
        Self::Log(metrics)
    }
}

/// Opens the queue for roles; without any, for operators alone. Servers that are not there yet are
/// waited for, until
/// `stop`: then there is none.
pub(crate) async fn open(
    config: &Config,
    roles: &[Role],
    metrics: Metrics,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Backend>> {
    match (metrics, &config.jetstream) {
        (Metrics::JetStream(metrics), Some(settings)) => {
            // Boxed: the client library's connecting is large.
            let opening = Box::pin(reach(settings, roles, &metrics, readiness));
            let opened = stop.run_until_cancelled(opening).await.transpose()?;
            Ok(opened.map(|queue| Backend::JetStream(Arc::new(queue))))
        }
        (Metrics::Log(metrics), _) => open_log(config, metrics).await.map(Some),
        (Metrics::JetStream(_), None) => Ok(None),
    }
}

async fn reach(
    settings: &queue_jetstream::Config,
    roles: &[Role],
    metrics: &queue_jetstream::Metrics,
    readiness: &Readiness,
) -> anyhow::Result<JetQueue> {
    loop {
        let (settings, metrics, clock) = (settings.clone(), metrics.clone(), runtime::clock::now);
        let opened = match roles {
            [] => JetQueue::open_for_operators(settings, metrics, clock).await,
            roles => {
                let kinds = roles.iter().filter_map(|role| role.kind()).collect();
                JetQueue::open(settings, kinds, metrics, clock).await
            }
        };
        match opened {
            Ok(queue) => return Ok(queue),
            Err(OpenError::Config(error)) => return Err(refused("jetstream")(&error)),
            Err(error) if error.may_pass() => {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(event = "queue_waits", error);
                readiness.not_ready("queue", error);
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(anyhow::Error::new(error).context("jetstream")),
        }
    }
}

async fn open_log(config: &Config, metrics: queue_log::Metrics) -> anyhow::Result<Backend> {
    let directory = config.queue_directory();
    let settings = config.queue.clone();
    // Recovery reads files: not on a thread that other tasks need.
    let opened = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || LogQueue::open(&directory, settings, metrics, runtime::clock::now)
    });
    let opened = opened.await.context("opening the queue panicked")?;
    let queue = opened.with_context(|| format!("cannot open the queue {}", directory.display()))?;
    Ok(Backend::Log(Arc::new(queue)))
}
