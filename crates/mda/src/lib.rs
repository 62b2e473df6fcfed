//! The mail delivery agent: takes jobs for hosted domains from the queue and writes Maildirs, or
//! hands them to a mailbox server by LMTP (RFC 2033).
//!
//! ```text
//! <directory>/<2 digits>/<id>/tmp/…   written, fdatasync
//!                            /new/…   renamed, directory fsync: delivered
//!                            /cur/…   the reader's
//!                            /.Name/  a folder of the owner's, alike (Maildir++)
//! ```
//!
//! **Queues.** Jobs of kind [`queue::HopKind::Mailbox`] are leased, as many as may be written
//! at once. Each is settled in one step when all its recipients have been seen to.
//!
//! **Strategies.** A file's name is derived from job and recipient, so that a job repeated after a
//! crash finds what it stored before, read or unread, and stores it once. A file system without
//! room is taken for a next hop that is down: one probe at a time, and all jobs at once when there
//! is room again. So is an LMTP server that cannot be reached. As many jobs are leased as it may
//! have connections; a job is one transaction, in which each recipient has a reply of its own.
//!
//! A mailbox with a quota is *full* when it holds that much. Everybody is told at once
//! ([`Setup::full`]), so that its mail is refused at RCPT. What was accepted before is stored,
//! beyond the quota by one message or a tenth; the rest waits in the queue until its owner has made
//! room, and is stored without it when its time is over: none is bounced. Full mailboxes are looked
//! at every 5 seconds, all others with a quota every 10 minutes, and more seldom where looking
//! would take more than a twentieth of a thread.
//!
//! **Security.** No part of an address is ever part of a path: a mailbox's directory is named by an
//! opaque id ([`domains::StorageId`]), its files by those of jobs. Files and directories are the
//! owner's alone. A sub-address (`alice+lists`) goes to the folder of that name if its owner has
//! made one; the name is compared with those of the disk, and no stranger makes one. What becomes
//! of it at an LMTP server is that server's to decide, and so are Return-Path and Delivered-To.
//!
//! **Diagnostics.** One line for each recipient `stored` (with LMTP, for each group of the same
//! reply), and for each group `deferred`, `bounced`, `expired` or `double_bounce`; `mailbox_full`
//! and `mailbox_has_room`; and [`Metrics`].
//!
//! **Failure behaviour.** A disk that is full or broken defers and never bounces. A recipient that
//! exists no more is bounced only when the domain table says so and is the one in force: without a
//! table, or with one that no longer has the domain, it waits. An address that was made an alias
//! meanwhile is followed to mailboxes; one that leads elsewhere now waits for an operator.
//!
//! An LMTP server bounces whom it refuses by `5xx`; one that is not there, or goes away, defers.
//! A mailbox that it says is full counts as full for 10 minutes, or until it takes as much again.
//!
//! It knows not how the queue stores, and does not read mail.

mod config;
mod lmtp;
mod log;
mod maildir;
mod metrics;
mod path;
mod recipient;
mod usage;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use domains::{Absence, FullMailboxes, Table};
use mail_types::Host;
use outcome::Route;
use queue::Queue;
use retry::Policy;
use smtp::client::{ClientConfig, Protocol, Timeouts};
use tokio_util::sync::CancellationToken;

pub use config::{Config, ConfigError};
pub use lmtp::{LmtpConfig, LmtpError};
pub use maildir::{Held, Maildirs, count};
pub use metrics::Metrics;

use crate::lmtp::{Full, Server};
use crate::maildir::Store;
use crate::usage::Usage;
use crate::worker::{Mailboxes, Terms, Worker};

/// What the role works with.
pub struct Setup {
    pub queue: Arc<dyn Queue>,
    /// The table in force; `None` until there is one.
    pub domains: Arc<ArcSwapOption<Table>>,
    /// Asked before a recipient bounces because the table lacks it.
    pub absence: Arc<dyn Absence>,
    /// Told which mailboxes are full, and which are so no longer.
    pub full: Arc<FullMailboxes>,
    /// Our name: the Reporting-MTA of DSNs, the argument of LHLO.
    pub name: Host,
    /// Where DSNs go.
    pub route: Route,
    /// How long the queue leases a job.
    pub lease: Duration,
    /// What [`Config::retry`] changes: how long mail was to be kept when it came.
    pub retry: Policy,
    /// How long an LMTP server has for each answer; shorter than the lease by a minute.
    pub timeouts: Timeouts,
    /// What a relative [`Config::directory`] is relative to.
    pub data_dir: PathBuf,
    pub metrics: Metrics,
}

/// The role, configured.
pub struct Mda {
    config: Config,
    setup: Setup,
    mailboxes: Mailboxes,
    terms: Arc<ArcSwap<Terms>>,
}

/// Changes the configuration of the role while it works.
#[derive(Clone)]
pub struct Live {
    terms: Arc<ArcSwap<Terms>>,
    name: Host,
    route: Route,
}

/// A configuration that can be put in force.
pub struct Change {
    terms: Terms,
    live: Live,
}

impl Live {
    /// Checks the configuration; changes nothing. `retry` is that of [`Setup::retry`]. Of
    /// `config` only [`Config::retry`] can be changed.
    pub fn prepare(&self, config: &Config, retry: &Policy) -> Result<Change, ConfigError> {
        config.validate(retry)?;
        let terms = Terms::new(&self.name, &self.route, config.retry.of(retry));
        Ok(Change { terms, live: self.clone() })
    }
}

impl Change {
    /// Attempts that begin from now on are judged by it.
    pub fn apply(self) {
        self.live.terms.store(Arc::new(self.terms));
    }
}

impl Mda {
    /// Checks the configuration, and that mail can be written to its directory if it is to be.
    pub fn new(config: Config, setup: Setup) -> Result<Self, ConfigError> {
        config.validate(&setup.retry)?;
        let mailboxes = match &config.lmtp {
            Some(lmtp) => Mailboxes::Server(Box::new(server(lmtp, &setup)?)),
            None => {
                let directory = setup.data_dir.join(&config.directory);
                let store = Store::open(&directory)
                    .map_err(|source| ConfigError::Directory { directory, source })?;
                let usage = Usage::new(setup.full.clone(), setup.metrics.mailboxes_full.clone());
                Mailboxes::Maildirs { store: Arc::new(store), usage }
            }
        };
        let policy = config.retry.of(&setup.retry);
        let terms = ArcSwap::from_pointee(Terms::new(&setup.name, &setup.route, policy));
        Ok(Self { config, setup, mailboxes, terms: Arc::new(terms) })
    }

    /// By which its configuration is changed.
    pub fn live(&self) -> Live {
        let Setup { name, route, .. } = &self.setup;
        Live { terms: Arc::clone(&self.terms), name: name.clone(), route: route.clone() }
    }

    /// Where the Maildirs are, if any are written.
    pub fn directory(&self) -> Option<&Path> {
        self.store().map(|store| store.root())
    }

    /// Which of them is whose.
    pub fn maildirs(&self) -> Option<Maildirs> {
        self.store().map(|store| store.maildirs().clone())
    }

    fn store(&self) -> Option<&Store> {
        match &self.mailboxes {
            Mailboxes::Maildirs { store, .. } => Some(store),
            Mailboxes::Server(_) => None,
        }
    }

    /// Works until `shutdown`; then leases no more, finishes what is in flight within `grace` and
    /// gives the rest back.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        let Self { config, setup, mailboxes, terms } = self;
        // Permits first: a job is leased when there is a connection for it.
        let connections_max = config.lmtp.map(|lmtp| lmtp.connections_max);
        let worker = Worker {
            terms,
            jobs_max: connections_max.unwrap_or(config.deliveries_max),
            queue: setup.queue,
            domains: setup.domains,
            absence: setup.absence,
            mailboxes,
            lease: setup.lease,
            metrics: setup.metrics,
            started: runtime::clock::now(),
            unsettled: Default::default(),
            obstructed: Default::default(),
            stopping: shutdown,
        };
        Arc::new(worker).run(grace).await;
    }
}

fn server(lmtp: &LmtpConfig, setup: &Setup) -> Result<Server, ConfigError> {
    let endpoint = lmtp.endpoint().map_err(ConfigError::Lmtp)?;
    let mut client = ClientConfig::new(setup.name.clone());
    client.protocol = Protocol::Lmtp;
    client.timeouts = setup.timeouts;
    let full = Full::new(setup.full.clone(), setup.metrics.mailboxes_full.clone());
    Ok(Server::new(endpoint, client, setup.lease, full, setup.metrics.clone()))
}
