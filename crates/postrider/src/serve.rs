//! `postrider serve`: every role in one process, on the embedded log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use domains::Table;
use mail_types::Host;
use prometheus_client::registry::Registry;
use queue_log::LogQueue;
use runtime::readiness::Readiness;
use runtime::telemetry::Format;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::LogFormat;
use crate::config::{Config, refused};
use crate::{dsn_route, output, queue_metrics, resources};

/// Reads everything, says what it would serve, and changes nothing.
pub(crate) fn check(directory: &Path) -> anyhow::Result<()> {
    let config = Config::load(directory)?;
    config.validate()?;
    let table = resources::load(&config)?;
    let (domains, listeners) = (table.hosted_domains().len(), config.ingress.listeners.len());
    let mailboxes = table.mailboxes();
    output::line(&format!("ok: {domains} domains, {mailboxes} mailboxes, {listeners} listeners"));
    Ok(())
}

/// Serves until a signal says to stop.
pub(crate) async fn serve(directory: &Path, log: Option<LogFormat>) -> anyhow::Result<()> {
    let mut config = Config::load(directory)?;
    config.validate()?;
    if let Some(format) = log {
        config.log.format = Some(match format {
            LogFormat::Json => Format::Json,
            LogFormat::Human => Format::Human,
        });
    }
    runtime::telemetry::start(&config.log).map_err(|error| refused("log")(&error))?;
    let tasks = TaskTracker::new();
    let stop = runtime::shutdown::on_signals(&tasks).context("cannot listen for signals")?;
    let process = Process::start(config).await?;
    process.announce(directory)?;
    process.run(stop).await
}

/// The roles, bound and configured, and not yet working.
struct Process {
    config: Config,
    queue: Arc<LogQueue>,
    table: Arc<ArcSwapOption<Table>>,
    readiness: Readiness,
    ingress: ingress::Ingress,
    delivery: delivery::Delivery,
    mda: mda::Mda,
    http: runtime::http::Http,
    admin: admin::server::Server,
}

impl Process {
    async fn start(config: Config) -> anyhow::Result<Self> {
        let host = config.host()?;
        let table = Arc::new(ArcSwapOption::from_pointee(resources::load(&config)?));
        std::fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("dataDir: cannot make {}", config.data_dir.display()))?;
        let mut registry = Registry::with_prefix("postrider");
        let queue = open_queue(&config, &mut registry).await?;
        let readiness = Readiness::default();
        readiness.not_ready("roles", "starting");
        let ingress = bind_ingress(&config, &queue, &table, &mut registry)?;
        let delivery = make_delivery(&config, host.clone(), &queue, &table, &mut registry)?;
        let mda = make_mda(&config, host, &queue, &table, &mut registry)?;
        queue_metrics::register(&mut registry, &queue);
        let http = runtime::http::Http::bind(config.http, readiness.clone(), registry);
        let http = http.await.with_context(|| {
            format!("http.address: cannot listen on {}; is it in use?", config.http.address)
        })?;
        let socket = config.admin_socket();
        let admin = admin::server::Server::bind(&socket).await;
        let admin = admin.with_context(|| format!("cannot listen on {}", socket.display()))?;
        Ok(Self { config, queue, table, readiness, ingress, delivery, mda, http, admin })
    }

    /// Tells people, and scripts, where it listens and what to try.
    fn announce(&self, directory: &Path) -> anyhow::Result<()> {
        for (kind, address) in self.ingress.addresses() {
            let kind = serde_json::to_value(kind)?;
            output::line(&format!("listening {} {address}", kind.as_str().unwrap_or("smtp")));
        }
        output::line(&format!("listening http {}", self.http.address()?));
        output::line(&format!("queue and mailboxes are in {}", self.config.data_dir.display()));
        output::line("ready");
        output::line(&format!(
            "try: postrider queue list --config {} (or send mail as README.md shows)",
            directory.display()
        ));
        Ok(())
    }

    /// Works until `stop`; then stops in order: nothing new, what is in flight, the log.
    ///
    /// A role that ends by itself is a bug: the process ends with an error, and whoever started it
    /// starts it again. What was accepted is on disk.
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let grace = Duration::from_secs(self.config.ingress.stop_grace_seconds);
        let (mut roles, mut doors) = (JoinSet::new(), JoinSet::new());
        let last = CancellationToken::new();
        doors.spawn(self.http.serve(last.clone()));
        let admin = self.admin.serve(self.queue.clone(), last.clone());
        doors.spawn(async move { admin.await.unwrap_or_else(|error| log_admin(&error)) });
        roles.spawn(resources::keep_fresh(self.config, self.table, stop.clone()));
        roles.spawn(self.ingress.serve(stop.clone()));
        roles.spawn(self.delivery.run(stop.clone(), grace));
        roles.spawn(self.mda.run(stop.clone(), grace));
        self.readiness.ready("roles");
        // Cancel-safe: a role that has ended is still there for the loop below. Biased: once told
        // to stop, a role with nothing in flight ends before this task looks.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = roles.join_next() => {
                ended.transpose().context("a role panicked")?;
                anyhow::bail!("a role ended by itself");
            }
        }
        self.readiness.not_ready("roles", "stopping");
        while let Some(ended) = roles.join_next().await {
            ended.context("a role panicked while it stopped")?;
        }
        self.queue.close().await;
        last.cancel();
        while doors.join_next().await.is_some() {}
        tracing::info!(event = "stopped");
        Ok(())
    }
}

fn log_admin(error: &std::io::Error) {
    tracing::error!(event = "admin_failed", %error, "operators cannot reach the queue");
}

async fn open_queue(config: &Config, registry: &mut Registry) -> anyhow::Result<Arc<LogQueue>> {
    let metrics = queue_log::Metrics::default();
    metrics.register(registry);
    let directory = config.data_dir.join("queue");
    let settings = config.queue.clone();
    // Recovery reads files: not on a thread that other tasks need.
    let opened = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || LogQueue::open(&directory, settings, metrics, runtime::clock::now)
    });
    let opened = opened.await.context("opening the queue panicked")?;
    Ok(Arc::new(opened.with_context(|| format!("cannot open the queue {}", directory.display()))?))
}

fn bind_ingress(
    config: &Config,
    queue: &Arc<LogQueue>,
    table: &Arc<ArcSwapOption<Table>>,
    registry: &mut Registry,
) -> anyhow::Result<ingress::Ingress> {
    let services = ingress::Services {
        queue: queue.clone(),
        domains: table.clone(),
        metrics: ingress::Metrics::register(registry),
    };
    ingress::Ingress::bind(&config.ingress, services).map_err(|error| match error {
        ingress::StartError::Config(error) => refused("ingress")(&error),
        error @ (ingress::StartError::Tls(_)
        | ingress::StartError::NoCertificate
        | ingress::StartError::Listen { .. }) => anyhow::Error::new(error).context("ingress"),
    })
}

fn make_delivery(
    config: &Config,
    name: Host,
    queue: &Arc<LogQueue>,
    table: &Arc<ArcSwapOption<Table>>,
    registry: &mut Registry,
) -> anyhow::Result<delivery::Delivery> {
    let resolver = resolve::Dns::new(&config.resolver).context("resolver")?;
    let setup = delivery::Setup {
        queue: queue.clone(),
        resolver: Arc::new(resolver),
        name,
        route: dsn_route::route(table),
        lease: config.lease(),
        metrics: delivery::Metrics::register(registry),
    };
    delivery::Delivery::new(config.delivery.clone(), setup)
        .map_err(|error| refused("delivery")(&error))
}

fn make_mda(
    config: &Config,
    name: Host,
    queue: &Arc<LogQueue>,
    table: &Arc<ArcSwapOption<Table>>,
    registry: &mut Registry,
) -> anyhow::Result<mda::Mda> {
    let setup = mda::Setup {
        queue: queue.clone(),
        domains: table.clone(),
        name,
        route: dsn_route::route(table),
        lease: config.lease(),
        data_dir: config.data_dir.clone(),
        metrics: mda::Metrics::register(registry),
    };
    mda::Mda::new(config.mda.clone(), setup).map_err(|error| refused("mda")(&error))
}
