//! A process that serves roles: all of them with `postrider serve`, or one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domains::Srs;
use prometheus_client::registry::Registry;
use queue::{HopKind, Queue};
use runtime::readiness::Readiness;
use runtime::telemetry::Format;
use runtime::trace::{Export, Origin};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::cli::LogFormat;
use crate::config::{Config, Refused, refused};
use crate::queue_metrics::Watched;
use crate::table::Domains;
use crate::{backend, dsn_route, output, srs};

/// What a connection to the port of operators may last: a list of a long queue takes its time.
const ADMIN_LASTING: Duration = Duration::from_secs(600);

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Ingress,
    Worker,
    Mda,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Ingress, Self::Worker, Self::Mda];

    /// What spans name it.
    fn service(self) -> &'static str {
        match self {
            Self::Ingress => "postrider-ingress",
            Self::Worker => "postrider-worker",
            Self::Mda => "postrider-mda",
        }
    }

    /// The next hops that the role takes jobs for.
    fn kind(self) -> Option<HopKind> {
        match self {
            Self::Ingress => None,
            Self::Worker => Some(HopKind::Smtp),
            Self::Mda => Some(HopKind::Mailbox),
        }
    }
}

/// Serves until a signal says to stop.
pub(crate) async fn serve(
    directory: &Path,
    roles: &[Role],
    log: Option<LogFormat>,
) -> anyhow::Result<()> {
    let mut config = Config::load(directory)?;
    config.validate_serving()?;
    if roles != Role::ALL && config.jetstream.is_none() {
        let problem = "postrider.yaml: jetstream is not set: a role of its own needs a queue that \
                       processes share; run `postrider serve` to have all roles in one process";
        return Err(Refused::of_lines(&[problem.to_owned()]).into());
    }
    if let Some(format) = log {
        config.log.format = Some(match format {
            LogFormat::Json => Format::Json,
            LogFormat::Human => Format::Human,
        });
    }
    let export = open_export(&config, roles)?;
    let started = runtime::telemetry::start(&config.log, export.as_ref());
    started.map_err(|error| refused("log")(&error))?;
    let served = serve_logged(directory, roles, config).await;
    if let Some(export) = export {
        export.close().await;
    }
    served
}

fn open_export(config: &Config, roles: &[Role]) -> anyhow::Result<Option<Export>> {
    let service = match roles {
        [role] => role.service(),
        _ => "postrider",
    };
    let origin = Origin { service, host: &config.hostname };
    Export::open(&config.telemetry, origin).map_err(|error| refused("telemetry")(&error))
}

async fn serve_logged(directory: &Path, roles: &[Role], config: Config) -> anyhow::Result<()> {
    let tasks = TaskTracker::new();
    let stop = runtime::shutdown::on_signals(&tasks).context("cannot listen for signals")?;
    let (doors, last) = (JoinSet::new(), CancellationToken::new());
    let readiness = Readiness::default();
    let domains = Domains::open(&config, roles, &readiness).await?;
    let opening = Opening { config, domains, doors, last, readiness };
    let Some(process) = opening.open(roles, &stop).await? else { return Ok(()) };
    process.announce(directory)?;
    process.run(stop).await
}

/// A process whose queue is not open yet. It tells its health already.
struct Opening {
    config: Config,
    domains: Domains,
    /// Health and metrics: they are served from the first to the last.
    doors: JoinSet<()>,
    last: CancellationToken,
    readiness: Readiness,
}

impl Opening {
    /// `None` when it was told to stop before the queue was there.
    async fn open(
        mut self,
        roles: &[Role],
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Process>> {
        let config = &self.config;
        std::fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("dataDir: cannot make {}", config.data_dir.display()))?;
        let mut registry = Registry::with_prefix("postrider");
        let counted = backend::Metrics::register(config, &mut registry);
        let metrics = RoleMetrics::register(roles, &mut registry);
        let watched = Watched::register(&mut registry);
        self.readiness.not_ready("roles", "starting");
        self.readiness.not_ready("queue", "opening");
        let http = runtime::http::Http::bind(config.http, self.readiness.clone(), registry);
        let http = http.await.with_context(|| {
            format!("http.address: cannot listen on {}; is it in use?", config.http.address)
        })?;
        let http_address = http.address()?;
        self.doors.spawn(http.serve(self.last.clone()));
        let kinds: Vec<HopKind> = roles.iter().filter_map(|role| role.kind()).collect();
        let opened = backend::open(config, &kinds, counted, &self.readiness, stop).await?;
        let Some(backend) = opened else { return Ok(None) };
        self.readiness.ready("queue");
        let queue = backend.queue();
        watched.watch(backend.clone());
        let parts =
            Parts { config, queue: &queue, domains: &self.domains, srs: srs::open(config)? };
        let made = metrics.make(&parts)?;
        let socket = config.admin_socket();
        let admin = admin::server::Server::bind(&socket).await;
        let admin = admin.with_context(|| format!("cannot listen on {}", socket.display()))?;
        let admin = admin.serve(queue.clone(), self.last.clone());
        self.doors.spawn(async move { admin.await.unwrap_or_else(|error| log_admin(&error)) });
        let admin_address = self.open_port(queue).await?;
        Ok(Some(Process { opening: self, backend, made, http_address, admin_address }))
    }

    /// The port for operators, if there is to be one.
    async fn open_port(&mut self, queue: Arc<dyn Queue>) -> anyhow::Result<Option<SocketAddr>> {
        let Some(port) = self.config.admin_port()? else { return Ok(None) };
        let listener = TcpListener::bind(port.address).await.with_context(|| {
            format!("admin.listen: cannot listen on {}; is it in use?", port.address)
        })?;
        let address = listener.local_addr()?;
        let router = admin::port::router(queue, &port.token_file);
        let serve = runtime::http::serve(listener, router, ADMIN_LASTING, self.last.clone());
        self.doors.spawn(serve);
        Ok(Some(address))
    }
}

/// Registered before the queue is open: what is counted is known from the start.
struct RoleMetrics {
    ingress: Option<ingress::Metrics>,
    delivery: Option<delivery::Metrics>,
    mda: Option<mda::Metrics>,
}

/// What roles are made of.
struct Parts<'a> {
    config: &'a Config,
    queue: &'a Arc<dyn Queue>,
    domains: &'a Domains,
    srs: Option<Arc<Srs>>,
}

/// The roles, bound and configured, and not yet working.
struct Made {
    ingress: Option<ingress::Ingress>,
    delivery: Option<delivery::Delivery>,
    mda: Option<mda::Mda>,
}

impl RoleMetrics {
    fn register(roles: &[Role], registry: &mut Registry) -> Self {
        let has = |role| roles.contains(&role);
        Self {
            ingress: has(Role::Ingress).then(|| ingress::Metrics::register(registry)),
            delivery: has(Role::Worker).then(|| delivery::Metrics::register(registry)),
            mda: has(Role::Mda).then(|| mda::Metrics::register(registry)),
        }
    }

    fn make(self, parts: &Parts<'_>) -> anyhow::Result<Made> {
        let bind = |metrics| bind_ingress(parts, metrics);
        let deliver = |metrics| make_delivery(parts, metrics);
        let store = |metrics| make_mda(parts, metrics);
        Ok(Made {
            ingress: self.ingress.map(bind).transpose()?,
            delivery: self.delivery.map(deliver).transpose()?,
            mda: self.mda.map(store).transpose()?,
        })
    }
}

/// A process that is ready to work.
struct Process {
    opening: Opening,
    backend: Backend,
    made: Made,
    http_address: SocketAddr,
    admin_address: Option<SocketAddr>,
}

impl Process {
    /// Tells people, and scripts, where it listens and what to try.
    fn announce(&self, directory: &Path) -> anyhow::Result<()> {
        for (kind, address) in self.made.ingress.iter().flat_map(ingress::Ingress::addresses) {
            let kind = serde_json::to_value(kind)?;
            output::line(&format!("listening {} {address}", kind.as_str().unwrap_or("smtp")));
        }
        output::line(&format!("listening http {}", self.http_address));
        if let Some(address) = self.admin_address {
            output::line(&format!("listening admin {address}"));
        }
        let data_dir = self.opening.config.data_dir.display();
        output::line(&match &self.backend {
            Backend::Log(_) => format!("queue and mailboxes are in {data_dir}"),
            Backend::JetStream(_) => format!("the queue is on JetStream, the rest in {data_dir}"),
        });
        output::line("ready");
        output::line(&format!(
            "try: postrider queue list --config {} (or send mail as README.md shows)",
            directory.display()
        ));
        Ok(())
    }

    /// Works until `stop`; then stops in order: nothing new, what is in flight, the queue.
    ///
    /// A role that ends by itself is a bug: the process ends with an error, and whoever started it
    /// starts it again. What was accepted is in the queue.
    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Opening { config, domains, mut doors, last, readiness } = self.opening;
        let grace = Duration::from_secs(config.ingress.stop_grace_seconds);
        let mut roles = JoinSet::new();
        // Roles are told to stop once we are not ready: nobody sends us work that we refuse.
        let leave = CancellationToken::new();
        if let Some(ingress) = self.made.ingress {
            roles.spawn(ingress.serve(leave.clone()));
        }
        if let Some(delivery) = self.made.delivery {
            let run = delivery.run(leave.clone(), grace);
            roles.spawn(with_table(domains.clone(), leave.clone(), run));
        }
        if let Some(mda) = self.made.mda {
            let run = mda.run(leave.clone(), grace);
            roles.spawn(with_table(domains.clone(), leave.clone(), run));
        }
        roles.spawn(domains.keep_fresh(config, readiness.clone(), leave.clone()));
        readiness.ready("roles");
        // Cancel-safe: a role that has ended is still there for the loop below.
        tokio::select! {
            () = stop.cancelled() => {}
            ended = roles.join_next() => {
                ended.transpose().context("a role panicked")?;
                anyhow::bail!("a role ended by itself");
            }
        }
        readiness.not_ready("roles", "stopping");
        leave.cancel();
        while let Some(ended) = roles.join_next().await {
            ended.context("a role panicked while it stopped")?;
        }
        self.backend.close().await;
        last.cancel();
        while doors.join_next().await.is_some() {}
        tracing::info!(event = "stopped");
        Ok(())
    }
}

/// Begins when there is a table: without one it is not known where a DSN goes.
async fn with_table(domains: Domains, stop: CancellationToken, role: impl Future<Output = ()>) {
    if stop.run_until_cancelled(domains.loaded()).await.is_some() {
        role.await;
    }
}

fn log_admin(error: &std::io::Error) {
    tracing::error!(event = "admin_failed", %error, "operators cannot reach the queue");
}

fn bind_ingress(parts: &Parts<'_>, metrics: ingress::Metrics) -> anyhow::Result<ingress::Ingress> {
    let Parts { config, queue, domains, srs } = parts;
    let resolver = resolve::Dns::new(&config.resolver).context("resolver")?;
    let inquirer =
        delivery::Inquirer::new(config.delivery.clone(), Arc::new(resolver), config.host()?);
    let services = ingress::Services {
        queue: Arc::clone(queue),
        domains: domains.table.clone(),
        absence: domains.absence(),
        call_ahead: Arc::new(inquirer.map_err(|error| refused("delivery")(&error))?),
        logins: domains.logins(),
        srs: srs.clone(),
        metrics,
    };
    ingress::Ingress::bind(&config.ingress, services).map_err(|error| match error {
        ingress::StartError::Config(error) => refused("ingress")(&error),
        error @ (ingress::StartError::Tls(_)
        | ingress::StartError::NoCertificate
        | ingress::StartError::Listen { .. }) => anyhow::Error::new(error).context("ingress"),
    })
}

fn make_delivery(
    parts: &Parts<'_>,
    metrics: delivery::Metrics,
) -> anyhow::Result<delivery::Delivery> {
    let Parts { config, queue, domains, srs } = parts;
    let resolver = resolve::Dns::new(&config.resolver).context("resolver")?;
    let setup = delivery::Setup {
        queue: Arc::clone(queue),
        resolver: Arc::new(resolver),
        domains: domains.table.clone(),
        absence: domains.absence(),
        name: config.host()?,
        route: dsn_route::route(&domains.table, srs.clone()),
        lease: config.lease(),
        metrics,
    };
    delivery::Delivery::new(config.delivery.clone(), setup)
        .map_err(|error| refused("delivery")(&error))
}

fn make_mda(parts: &Parts<'_>, metrics: mda::Metrics) -> anyhow::Result<mda::Mda> {
    let Parts { config, queue, domains, srs } = parts;
    let setup = mda::Setup {
        queue: Arc::clone(queue),
        domains: domains.table.clone(),
        absence: domains.absence(),
        name: config.host()?,
        route: dsn_route::route(&domains.table, srs.clone()),
        lease: config.lease(),
        retry: config.delivery.retry.clone(),
        timeouts: config.delivery.timeouts.timeouts(),
        data_dir: config.data_dir.clone(),
        metrics,
    };
    mda::Mda::new(config.mda.clone(), setup).map_err(|error| refused("mda")(&error))
}
