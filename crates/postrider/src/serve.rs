//! A process that serves roles: all of them with `postrider serve`, or one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admin::Sources;
use anyhow::Context;
use clap::ValueEnum;
use domains::Srs;
use history::{History, Watched};
use prometheus_client::registry::Registry;
use queue::{HopKind, Queue};
use runtime::readiness::Readiness;
use runtime::telemetry::{Filter, Format};
use runtime::trace::{Export, Origin};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::Accounts;
use crate::backend::Backend;
use crate::backup::snapshot::Snapshots;
use crate::check::ensure_readable;
use crate::cli::LogFormat;
use crate::config::{Config, Refused, placed, refused, refused_by};
use crate::dovecot::service::Noting;
use crate::fullness::Fullness;
use crate::passwords::Passwords;
use crate::process::Control;
use crate::queue_metrics::Watched as Numbers;
use crate::reload::{Live, Reloader, Reloading, Setting, Source};
use crate::reloads::Reloads;
use crate::restore::ensure_restored;
use crate::table::{Domains, Renewal};
use crate::{backend, dovecot, dsn_route, output, past, srs};

/// What a connection to the port of operators may last: a list of a long queue takes its time.
const ADMIN_LASTING: Duration = Duration::from_secs(600);

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
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
    pub(crate) fn kind(self) -> Option<HopKind> {
        match self {
            Self::Ingress => None,
            Self::Worker => Some(HopKind::Smtp),
            Self::Mda => Some(HopKind::Mailbox),
        }
    }
}

/// Serves until a signal says to stop: roles, or without any operators alone.
pub(crate) async fn serve(
    directory: &Path,
    roles: &[Role],
    log: Option<LogFormat>,
) -> anyhow::Result<()> {
    let config = read_config(directory, log)?;
    ensure_restored(&config)?;
    ensure_shared(&config, roles)?;
    let export = open_export(&config, roles)?;
    let started = runtime::telemetry::start(&config.log, export.as_ref());
    let filter = started.map_err(|error| refused("log")(&error))?;
    let source = Source { directory: directory.to_owned(), log };
    // Boxed: opening the queue and the roles is large.
    let served = Box::pin(serve_logged(source, roles, config, filter)).await;
    if let Some(export) = export {
        export.close().await;
    }
    served
}

/// Refuses a role of its own without a queue that others reach.
pub(crate) fn ensure_shared(config: &Config, roles: &[Role]) -> anyhow::Result<()> {
    if roles == Role::ALL || config.jetstream.is_some() {
        return Ok(());
    }
    let problem = "postrider.yaml: jetstream is not set: a role of its own needs a queue that \
                   processes share; run `postrider serve` to have all roles in one process";
    Err(Refused::of_lines(&[problem.to_owned()]).into())
}

/// What a process serves by; all of it is checked.
pub(crate) fn read_config(directory: &Path, log: Option<LogFormat>) -> anyhow::Result<Config> {
    let mut config = Config::load(directory)?;
    config.validate_serving()?;
    if let Some(format) = log {
        config.log.format = Some(match format {
            LogFormat::Json => Format::Json,
            LogFormat::Human => Format::Human,
        });
    }
    Ok(config)
}

fn open_export(config: &Config, roles: &[Role]) -> anyhow::Result<Option<Export>> {
    let service = match roles {
        [role] => role.service(),
        [] => "postrider-admin",
        _ => "postrider",
    };
    let origin = Origin { service, host: &config.hostname };
    Export::open(&config.telemetry, origin).map_err(|error| refused("telemetry")(&error))
}

async fn serve_logged(
    source: Source,
    roles: &[Role],
    config: Config,
    filter: Filter,
) -> anyhow::Result<()> {
    let directory = source.directory.clone();
    let tasks = TaskTracker::new();
    let stop = runtime::shutdown::on_signals(&tasks).context("cannot listen for signals")?;
    let (doors, last) = (JoinSet::new(), CancellationToken::new());
    let readiness = Readiness::default();
    let (domains, renewal) = Domains::open(&config, roles, &readiness).await?;
    let opening = Opening { config, source, filter, domains, renewal, doors, last, readiness };
    let Some(process) = opening.open(roles, &stop).await? else { return Ok(()) };
    process.announce(&directory)?;
    process.run(stop).await
}

/// A process whose queue is not open yet. It tells its health already.
struct Opening {
    config: Config,
    source: Source,
    filter: Filter,
    domains: Domains,
    renewal: Renewal,
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
        let numbers = Numbers::register(&mut registry);
        let reloads = Reloads::of_config(&mut registry);
        let domain_reloads = Reloads::of_domains(&mut registry);
        self.readiness.not_ready("roles", "starting");
        self.readiness.not_ready("queue", "opening");
        let http = runtime::http::Http::bind(config.http, self.readiness.clone(), registry);
        let http = http.await.with_context(|| {
            format!("http.address: cannot listen on {}; is it in use?", config.http.address)
        })?;
        let http_address = http.address()?;
        self.doors.spawn(http.serve(self.last.clone()));
        let opened = backend::open(config, roles, counted, &self.readiness, stop).await?;
        let Some(backend) = opened else { return Ok(None) };
        self.readiness.ready("queue");
        let history = open_history(config)?;
        let queue: Arc<dyn Queue> = Arc::new(Watched::new(backend.queue(), history.clone()));
        let accounts = Accounts::open(config, roles).await?;
        let sources = Sources {
            queue: Arc::clone(&queue),
            past: past::of(&backend, history),
            passwords: roles.contains(&Role::Ingress).then(|| self.passwords(&accounts)),
        };
        numbers.watch(backend.clone());
        let fullness = Fullness::new(config, roles)?;
        let parts = Parts {
            config,
            queue: &queue,
            domains: &self.domains,
            fullness: &fullness,
            accounts: &accounts,
            resolver: Arc::new(resolve::Dns::new(&config.resolver).context("resolver")?),
            srs: match roles {
                [] => None,
                _ => srs::open(config)?,
            },
        };
        let made = metrics.make(&parts).await;
        let made = made.map_err(|error| placed(&config.directory, error))?;
        let (reloading, reloader) = Reloader::new(
            Setting { source: self.source.clone(), roles: roles.to_vec(), config: config.clone() },
            made.live(&self.filter),
            reloads,
        )?;
        self.open_socket(&backend, sources.clone(), reloading).await?;
        let admin_address = self.open_port(sources).await?;
        Ok(Some(Process {
            opening: self,
            backend,
            fullness,
            accounts,
            made,
            reloader,
            domain_reloads,
            http_address,
            admin_address,
        }))
    }

    /// The socket for operators.
    async fn open_socket(
        &mut self,
        backend: &Backend,
        sources: Sources,
        reloading: Reloading,
    ) -> anyhow::Result<()> {
        let socket = self.config.admin_socket();
        let admin = admin::server::Server::bind(&socket).await;
        let admin = admin.with_context(|| format!("cannot listen on {}", socket.display()))?;
        let snapshots = Arc::new(Snapshots::of(backend));
        self.doors.spawn(Arc::clone(&snapshots).watch(self.last.clone()));
        let admin = admin.with_process(Arc::new(Control::new(reloading, snapshots)));
        let admin = admin.serve(sources, self.last.clone());
        self.doors.spawn(async move { admin.await.unwrap_or_else(|error| log_admin(&error)) });
        Ok(())
    }

    fn passwords(&self, accounts: &Accounts) -> Arc<dyn admin::Passwords> {
        let (table, logins) = (self.domains.table.clone(), self.domains.logins());
        Arc::new(Passwords { table, logins, last_uses: accounts.last_uses.clone() })
    }

    /// The port for operators, if there is to be one.
    async fn open_port(&mut self, sources: Sources) -> anyhow::Result<Option<SocketAddr>> {
        let Some(port) = self.config.admin_port()? else { return Ok(None) };
        let listener = TcpListener::bind(port.address).await.with_context(|| {
            format!("admin.listen: cannot listen on {}; is it in use?", port.address)
        })?;
        let address = listener.local_addr()?;
        let router = admin::port::router(sources, &port.token_file);
        let serve = runtime::http::serve(listener, router, ADMIN_LASTING, self.last.clone());
        self.doors.spawn(serve);
        Ok(Some(address))
    }
}

fn open_history(config: &Config) -> anyhow::Result<History> {
    let directory = config.history_directory();
    History::open(&directory, config.history, runtime::clock::now)
        .with_context(|| format!("dataDir: cannot write the history {}", directory.display()))
}

/// Registered before the queue is open: what is counted is known from the start.
struct RoleMetrics {
    ingress: Option<ingress::Metrics>,
    delivery: Option<delivery::Metrics>,
    mda: Option<mda::Metrics>,
    dovecot: Option<dovecot::service::Metrics>,
}

/// What roles are made of.
struct Parts<'a> {
    config: &'a Config,
    queue: &'a Arc<dyn Queue>,
    domains: &'a Domains,
    fullness: &'a Fullness,
    accounts: &'a Accounts,
    resolver: Arc<dyn resolve::Resolver>,
    srs: Option<Arc<Srs>>,
}

/// The roles, bound and configured, and not yet working.
struct Made {
    ingress: Option<ingress::Ingress>,
    /// By which those who ask the servers of gateway domains for the ingress are changed.
    call_ahead: Option<delivery::Live>,
    delivery: Option<delivery::Delivery>,
    mda: Option<mda::Mda>,
    dovecot: Option<dovecot::service::Service>,
}

impl RoleMetrics {
    fn register(roles: &[Role], registry: &mut Registry) -> Self {
        let has = |role| roles.contains(&role);
        Self {
            ingress: has(Role::Ingress).then(|| ingress::Metrics::register(registry)),
            delivery: has(Role::Worker).then(|| delivery::Metrics::register(registry)),
            mda: has(Role::Mda).then(|| mda::Metrics::register(registry)),
            dovecot: has(Role::Mda).then(|| dovecot::service::Metrics::register(registry)),
        }
    }

    async fn make(self, parts: &Parts<'_>) -> anyhow::Result<Made> {
        if self.ingress.is_some() {
            ensure_readable(parts.config)?;
        }
        let inquirer = self.ingress.is_some().then(|| make_inquirer(parts)).transpose()?;
        let call_ahead = inquirer.as_ref().map(delivery::Inquirer::live);
        let bind = |(metrics, inquirer)| bind_ingress(parts, inquirer, metrics);
        let deliver = |metrics| make_delivery(parts, metrics);
        let store = |metrics| make_mda(parts, metrics);
        let mut made = Made {
            ingress: self.ingress.zip(inquirer).map(bind).transpose()?,
            call_ahead,
            delivery: self.delivery.map(deliver).transpose()?,
            mda: self.mda.map(store).transpose()?,
            dovecot: None,
        };
        if let Some(metrics) = self.dovecot {
            made.dovecot = bind_dovecot(parts, &made, metrics).await?;
        }
        Ok(made)
    }
}

impl Made {
    /// What of the configuration can be changed while they work.
    fn live(&self, filter: &Filter) -> Live {
        let worker = self.delivery.as_ref().map(delivery::Delivery::live);
        Live {
            ingress: self.ingress.as_ref().map(ingress::Ingress::live),
            delivery: worker.into_iter().chain(self.call_ahead.clone()).collect(),
            mda: self.mda.as_ref().map(mda::Mda::live),
            log: filter.clone(),
        }
    }
}

/// A process that is ready to work.
struct Process {
    opening: Opening,
    backend: Backend,
    fullness: Fullness,
    accounts: Accounts,
    made: Made,
    reloader: Reloader,
    domain_reloads: Reloads,
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
        let Opening { config, domains, renewal, mut doors, last, readiness, .. } = self.opening;
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
        roles.spawn(self.fullness.carry(leave.clone()));
        roles.spawn(self.accounts.prepare(leave.clone()));
        if let Some(dovecot) = self.made.dovecot {
            roles.spawn(dovecot.serve(leave.clone()));
        }
        roles.spawn(renewal.run(config, self.domain_reloads, readiness.clone(), leave.clone()));
        roles.spawn(self.reloader.run(leave.clone()));
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

/// Who asks the servers of gateway domains.
fn make_inquirer(parts: &Parts<'_>) -> anyhow::Result<delivery::Inquirer> {
    let Parts { config, resolver, .. } = parts;
    delivery::Inquirer::new(config.delivery.clone(), Arc::clone(resolver), config.host()?)
        .map_err(refused_by("delivery"))
}

fn bind_ingress(
    parts: &Parts<'_>,
    inquirer: delivery::Inquirer,
    metrics: ingress::Metrics,
) -> anyhow::Result<ingress::Ingress> {
    let Parts { config, queue, domains, fullness, accounts, srs, .. } = parts;
    let services = ingress::Services {
        queue: Arc::clone(queue),
        domains: domains.table.clone(),
        absence: domains.absence(),
        full: fullness.heard.clone(),
        call_ahead: Arc::new(inquirer),
        logins: domains.logins(),
        pool: accounts.pool.clone(),
        last_uses: accounts.last_uses.clone(),
        srs: srs.clone(),
        metrics,
    };
    ingress::Ingress::bind(&config.ingress, services).map_err(|error| match error {
        ingress::StartError::Config(error) => refused_by("ingress")(error),
        error @ (ingress::StartError::Tls(_)
        | ingress::StartError::NoCertificate
        | ingress::StartError::Listen { .. }) => anyhow::Error::new(error).context("ingress"),
    })
}

fn make_delivery(
    parts: &Parts<'_>,
    metrics: delivery::Metrics,
) -> anyhow::Result<delivery::Delivery> {
    let Parts { config, queue, domains, resolver, srs, .. } = parts;
    let setup = delivery::Setup {
        queue: Arc::clone(queue),
        resolver: Arc::clone(resolver),
        domains: domains.table.clone(),
        absence: domains.absence(),
        name: config.host()?,
        route: dsn_route::route(&domains.table, srs.clone()),
        lease: config.lease(),
        metrics,
    };
    delivery::Delivery::new(config.delivery.clone(), setup).map_err(refused_by("delivery"))
}

fn make_mda(parts: &Parts<'_>, metrics: mda::Metrics) -> anyhow::Result<mda::Mda> {
    let Parts { config, queue, domains, fullness, srs, .. } = parts;
    let setup = mda::Setup {
        queue: Arc::clone(queue),
        domains: domains.table.clone(),
        absence: domains.absence(),
        full: fullness.told.clone(),
        name: config.host()?,
        route: dsn_route::route(&domains.table, srs.clone()),
        lease: config.lease(),
        retry: config.delivery.retry.clone(),
        timeouts: config.delivery.timeouts.timeouts(),
        data_dir: config.data_dir.clone(),
        metrics,
    };
    mda::Mda::new(config.mda.clone(), setup).map_err(refused_by("mda"))
}

/// What Dovecot asks, if it may.
async fn bind_dovecot(
    parts: &Parts<'_>,
    made: &Made,
    metrics: dovecot::service::Metrics,
) -> anyhow::Result<Option<dovecot::service::Service>> {
    let maildirs = made.mda.as_ref().and_then(mda::Mda::maildirs);
    let (Some(socket), Some(maildirs)) = (&parts.config.dovecot.socket, maildirs) else {
        return Ok(None);
    };
    let (authenticator, noting) = match &made.ingress {
        Some(ingress) => (ingress.authenticator(), Noting::WithIngress(ingress.uses())),
        None => {
            let uses = ingress::Uses::new(parts.accounts.last_uses.clone());
            let own = ingress::Authenticator::new(&parts.config.ingress.auth);
            (Arc::new(own), Noting::Alone(Arc::new(uses)))
        }
    };
    let directory = dovecot::service::Directory {
        domains: parts.domains.clone(),
        authenticator,
        noting,
        maildirs,
        metrics,
    };
    dovecot::service::Service::bind(socket, directory).await.map(Some)
}
