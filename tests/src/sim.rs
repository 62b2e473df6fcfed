//! Every role in one process, over a queue of the test's choosing.
//!
//! The roles are the ones that `postrider serve` runs; only the queue and the other end of each
//! connection are the test's.

pub mod crowd;
pub mod faulty;
pub mod log;
pub mod peer;
pub mod saboteur;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use domains::{AtHome, FullMailboxes, Table};
use mail_types::{Host, Mailbox, Recipient};
use outcome::Route;
use prometheus_client::registry::Registry;
use queue::{NewJob, NextHop, Queue};
use retry::{Policy, PolicyChange};
use senders::{LastUseStore, LastUses, Unstored};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Arrivals, Balance, Unsettled};
use crate::load::Books;
use crate::sink::Sink;
use crate::{maildir, process};

/// How long the queue leases a job: longer than the longest step of an attempt.
const LEASE: Duration = Duration::from_secs(900);
const GRACE: Duration = Duration::from_secs(20);

/// The roles at work, for the mailboxes `alice@local.test` and `bob@local.test`.
pub struct World {
    stop: CancellationToken,
    roles: JoinSet<()>,
    submission: SocketAddr,
    mail: PathBuf,
}

impl World {
    /// Starts the roles in `dir`. All remote mail goes to `sink`, and is tried again after a
    /// second.
    pub fn start(queue: &Arc<dyn Queue>, sink: SocketAddr, dir: &Path) -> Result<Self> {
        log::start();
        let table = Arc::new(ArcSwapOption::from_pointee(table()?));
        let full = Arc::<FullMailboxes>::default();
        let mut registry = Registry::default();
        let services = ingress::Services {
            queue: Arc::clone(queue),
            domains: Arc::clone(&table),
            absence: Arc::new(AtHome),
            full: full.clone(),
            call_ahead: Arc::new(inquirer()?),
            srs: None,
            logins: Arc::new(AtHome),
            pool: Arc::new(senders::InMemory::default()),
            last_uses: Arc::new(Forgetful),
            metrics: ingress::Metrics::register(&mut registry),
        };
        let ingress = ingress::Ingress::bind(&ingress_config(dir)?, services)?;
        let submission = ingress.addresses().first().context("no listener")?.1;
        let delivery = delivery(queue, Arc::clone(&table), sink, &mut registry)?;
        let mda = mda(queue, table, full, dir, &mut registry)?;
        let mail = mda.directory().context("no Maildirs")?.to_owned();
        let (stop, mut roles) = (CancellationToken::new(), JoinSet::new());
        roles.spawn(ingress.serve(stop.clone()));
        roles.spawn(delivery.run(stop.clone(), GRACE));
        roles.spawn(mda.run(stop.clone(), GRACE));
        Ok(Self { stop, roles, submission, mail })
    }

    pub fn submission(&self) -> SocketAddr {
        self.submission
    }

    /// Stops the roles as a signal does; fails when one of them panicked.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.roles.join_next().await {
            ended.context("a role panicked")?;
        }
        Ok(())
    }

    /// Holds the books against what has arrived so far.
    pub fn balance(&self, books: &Books, sink: &Sink, faults: &Faults<'_>) -> Result<Balance> {
        let mut mailboxes = Vec::new();
        for path in maildir::messages(&self.mail)? {
            mailboxes.push(std::fs::read(path)?);
        }
        let (received, log) = (sink.received(), log::double_bounces());
        let arrivals = Arrivals {
            sink: &received,
            mailboxes: &mailboxes,
            log: &log,
            kills: faults.crashes,
            unsettled: faults.unsettled,
        };
        Ok(books.ledger.lock().expect("no client panics holding it").balance(&arrivals))
    }
}

/// What may explain a duplicate.
#[derive(Debug, Default, Clone, Copy)]
pub struct Faults<'a> {
    /// Crashes of the queue.
    pub crashes: &'a [Instant],
    pub unsettled: &'a [Unsettled],
}

/// Who used which password is nobody's concern here.
struct Forgetful;

#[async_trait]
impl LastUseStore for Forgetful {
    async fn add(&self, _: &BTreeMap<String, LastUses>) -> Result<(), Unstored> {
        Ok(())
    }

    async fn of(&self, _: &str) -> Result<LastUses, Unstored> {
        Ok(LastUses::default())
    }
}

fn table() -> Result<Table> {
    let yaml = process::domain_yaml("local.test", &["alice", "bob"])?;
    let table = Table::from_yaml([("local.test.yaml", yaml.as_str())], &Default::default());
    table.map_err(|problems| anyhow!("{problems:?}"))
}

fn ingress_config(dir: &Path) -> Result<ingress::Config> {
    let addresses = vec!["127.0.0.1:0".parse()?];
    let listener = ingress::Listener::new(ingress::Kind::Submission, addresses);
    let mut config = ingress::Config {
        hostname: "mx.local.test".into(),
        listeners: vec![listener],
        ..ingress::Config::default()
    };
    config.tls.self_signed_directory = Some(dir.join("tls"));
    Ok(config)
}

/// Tries again after a second.
fn impatient() -> Policy {
    Policy { intervals_seconds: vec![1], repeat_seconds: 1, ..Policy::default() }
}

fn inquirer() -> Result<delivery::Inquirer> {
    let resolver = Arc::new(resolve::Fake::default());
    Ok(delivery::Inquirer::new(delivery::Config::default(), resolver, name()?)?)
}

fn delivery(
    queue: &Arc<dyn Queue>,
    domains: Arc<ArcSwapOption<Table>>,
    sink: SocketAddr,
    registry: &mut Registry,
) -> Result<delivery::Delivery> {
    let route = delivery::RouteConfig {
        domain: "*".into(),
        host: Some(sink.ip().to_string()),
        port: Some(sink.port()),
        tls: delivery::TlsMode::Opportunistic,
        chunking: true,
        auth: None,
        retry: PolicyChange::default(),
    };
    let config = delivery::Config {
        retry: impatient(),
        probe_interval_seconds_max: 1,
        routes: vec![route],
        ..delivery::Config::default()
    };
    let setup = delivery::Setup {
        queue: Arc::clone(queue),
        resolver: Arc::new(resolve::Fake::default()),
        domains,
        absence: Arc::new(AtHome),
        name: name()?,
        route: dsn_route(),
        lease: LEASE,
        metrics: delivery::Metrics::register(registry),
    };
    Ok(delivery::Delivery::new(config, setup)?)
}

fn mda(
    queue: &Arc<dyn Queue>,
    domains: Arc<ArcSwapOption<Table>>,
    full: Arc<FullMailboxes>,
    dir: &Path,
    registry: &mut Registry,
) -> Result<mda::Mda> {
    let setup = mda::Setup {
        queue: Arc::clone(queue),
        domains,
        absence: Arc::new(AtHome),
        full,
        name: name()?,
        route: dsn_route(),
        lease: LEASE,
        retry: impatient(),
        timeouts: Default::default(),
        data_dir: dir.to_owned(),
        metrics: mda::Metrics::register(registry),
    };
    Ok(mda::Mda::new(mda::Config::default(), setup)?)
}

fn name() -> Result<Host> {
    Ok(Host::parse("mx.local.test")?)
}

/// All senders of the load are mailboxes of ours.
fn dsn_route() -> Route {
    Route::new(|address: &Mailbox| {
        let recipients = vec![Recipient::new(address.clone())];
        let job = |domain| NewJob::new(NextHop::mailbox(domain), recipients);
        address.domain().map(job).into_iter().collect()
    })
}
