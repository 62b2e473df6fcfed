//! A replica of the operator, from its start to its end.

use std::time::Duration;

use anyhow::Context;
use kube::Client;
use prometheus_client::registry::Registry;
use runtime::http::Http;
use runtime::readiness::Readiness;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::leader::{Leadership, Lease};
use crate::metrics::Metrics;
use crate::operator::Operator;
use crate::{installation, watch};

/// Between two tries to reach the API server.
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer of the API server may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Until a signal says to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    runtime::telemetry::start(&config.log, None)?;
    let tasks = TaskTracker::new();
    let stop = runtime::shutdown::on_signals(&tasks).context("cannot listen for signals")?;
    let readiness = Readiness::default();
    let mut registry = Registry::with_prefix("postrider_operator");
    let metrics = Metrics::register(&mut registry);
    readiness.not_ready("keys", "not made yet");
    let http = Http::bind(config.http, readiness.clone(), registry).await;
    let http = http.with_context(|| format!("cannot listen on {}", config.http.address))?;
    tasks.spawn(http.serve(stop.clone()));
    let mut known = kube::Config::infer().await.context("no Kubernetes is known here")?;
    let watching = Client::try_from(known.clone())?;
    // An answer that does not come must not hold up all others; a watch has none for long.
    known.read_timeout = Some(ANSWER_MAX);
    let client = Client::try_from(known)?;
    let name = format!("{}-operator", config.release);
    let lease = Lease::new(client.clone(), &config.namespace, name);
    let begun = begin(&client, &config, &lease);
    let Some(leadership) = stop.run_until_cancelled(begun).await else { return Ok(()) };
    readiness.ready("keys");
    let seen = watch::begin(&watching, &config.watch_namespaces, &tasks, &stop);
    let operator = Operator::new(config, client, lease, metrics)?;
    let leads = leadership.leads.clone();
    // Boxed: the client libraries' futures are large.
    Box::pin(operator.run(seen, leads, readiness, stop)).await;
    leadership.release().await;
    Ok(())
}

/// Makes what is not there, and asks for the lead: again until it succeeds.
async fn begin(client: &Client, config: &Config, lease: &Lease) -> Leadership {
    loop {
        let made = installation::ensure(client, config).await;
        let begun = match made {
            Ok(()) => Leadership::ask(client.clone(), lease).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(leadership) => return leadership,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(event = "start_waits", error, "tried again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
