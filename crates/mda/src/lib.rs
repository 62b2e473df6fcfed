//! The mail delivery agent: takes jobs for hosted domains from the queue and writes Maildirs.
//!
//! ```text
//! <directory>/<domain>/<local part, escaped>/tmp/…   written, fdatasync
//!                                           /new/…   renamed, directory fsync: delivered
//!                                           /cur/…   the reader's
//!                                           /.Name/  a folder of the owner's, alike (Maildir++)
//! ```
//!
//! **Queues.** Jobs of kind [`queue::HopKind::Mailbox`] are leased, as many as may be written
//! at once. Each is settled in one step when all its recipients have been seen to.
//!
//! **Strategies.** A file's name is derived from job and recipient, so that a job repeated after a
//! crash finds what it stored before, read or unread, and stores it once. A file system without
//! room is taken for a next hop that is down: one probe at a time, and all jobs at once when there
//! is room again.
//!
//! **Security.** No part of an address becomes part of a path unescaped; nothing is written outside
//! the directory. Files and directories are the owner's alone. A sub-address (`alice+lists`) goes
//! to the folder of that name if its owner has made one; no stranger makes one.
//!
//! **Diagnostics.** One line for each recipient `stored`, and for each group `deferred`, `bounced`,
//! `expired` or `double_bounce`; and [`Metrics`].
//!
//! **Failure behaviour.** A disk that is full or broken defers and never bounces. A recipient that
//! exists no more is bounced only when the domain table says so and is the one in force: without a
//! table, or with one that no longer has the domain, it waits. An address that was made an alias
//! meanwhile is followed to mailboxes; one that leads elsewhere now waits for an operator.
//!
//! It knows neither SMTP nor how the queue stores, and does not read mail.

mod config;
mod log;
mod maildir;
mod metrics;
mod path;
mod recipient;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use domains::{Absence, Table};
use mail_types::Host;
use outcome::{Route, Settler};
use queue::Queue;
use retry::Policy;
use tokio_util::sync::CancellationToken;

pub use config::{Config, ConfigError};
pub use metrics::Metrics;

use crate::maildir::Store;
use crate::worker::Worker;

/// What the role works with.
pub struct Setup {
    pub queue: Arc<dyn Queue>,
    /// The table in force; `None` until there is one.
    pub domains: Arc<ArcSwapOption<Table>>,
    /// Asked before a recipient bounces because the table lacks it.
    pub absence: Arc<dyn Absence>,
    /// Our name, the Reporting-MTA of DSNs.
    pub name: Host,
    /// Where DSNs go.
    pub route: Route,
    /// How long the queue leases a job.
    pub lease: Duration,
    /// What [`Config::retry`] changes: how long mail was to be kept when it came.
    pub retry: Policy,
    /// What a relative [`Config::directory`] is relative to.
    pub data_dir: PathBuf,
    pub metrics: Metrics,
}

/// The role, configured.
pub struct Mda {
    config: Config,
    setup: Setup,
    store: Store,
}

impl Mda {
    /// Checks the configuration and that mail can be written to its directory.
    pub fn new(config: Config, setup: Setup) -> Result<Self, ConfigError> {
        config.validate(&setup.retry)?;
        let directory = setup.data_dir.join(&config.directory);
        let store = Store::open(&directory)
            .map_err(|source| ConfigError::Directory { directory, source })?;
        Ok(Self { config, setup, store })
    }

    /// Where the Maildirs are.
    pub fn directory(&self) -> &std::path::Path {
        self.store.root()
    }

    /// Works until `shutdown`; then leases no more, finishes what is in flight within `grace` and
    /// gives the rest back.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        let Self { config, setup, store } = self;
        let policy = config.retry.of(&setup.retry);
        let worker = Worker {
            settler: Settler::new(setup.name, setup.route, policy.clone()),
            policy,
            config,
            queue: setup.queue,
            domains: setup.domains,
            absence: setup.absence,
            store: Arc::new(store),
            lease: setup.lease,
            metrics: setup.metrics,
            started: runtime::clock::now(),
            unsettled: Default::default(),
            without_room: Default::default(),
            stopping: shutdown,
        };
        Arc::new(worker).run(grace).await;
    }
}
