//! The delivery role: takes jobs for other mail systems from the queue and speaks SMTP to them.
//!
//! **Queues.** Jobs of kind [`queue::HopKind::Smtp`] are leased from the queue. A connection takes
//! one job, has its outcome recorded, and then asks for another one for the same next hop.
//!
//! **Strategies.** Next hops are found by route or MX and tried by preference, equals in random
//! order, over IPv6 and IPv4. With several addresses of our own, a sender's mail always comes from
//! the same. A domain of ours that has a server of its own ([`domains::Gateway`]) has its mail
//! handed there, by what the table says at each attempt. A next hop that cannot be reached is
//! reported to the queue, which keeps its jobs back but for one probe at a time. When and how often
//! to retry is `retry`'s, what an outcome means for sender and queue is `outcome`'s.
//!
//! **Security.** TLS whenever it is offered; verified where a route says so. Addresses that no
//! foreign domain has any business pointing at are refused at connect. Nothing that a peer says is
//! believed to be bounded, timely, text or in order. Content leaves dot-stuffed, with CRLF only.
//!
//! **Diagnostics.** One line for each attempt (`delivered`, `deferred`, `bounced`, `expired`,
//! `double_bounce`), and [`Metrics`].
//!
//! **Failure behaviour.** What is wrong on our side defers and never bounces. A session lost
//! between the final dot and its reply defers: the message may be delivered twice, not never.
//!
//! It knows neither how the queue stores nor how DNS is asked, and of hosted domains their servers
//! alone.

mod attempt;
mod config;
mod failure;
mod hop_health;
mod inquirer;
mod log;
mod metrics;
mod pool;
mod probe;
mod session;
mod sources;
mod stream;
mod targets;
mod tls;
mod visit;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use domains::{Absence, Table};
use mail_types::Host;
use outcome::{Route, Settler};
use queue::Queue;
use resolve::Resolver;
use tokio_util::sync::CancellationToken;

pub use config::{AuthConfig, Config, ConfigError, LEASE_MARGIN, RouteConfig, TimeoutConfig};
pub use inquirer::Inquirer;
pub use metrics::Metrics;
pub use probe::{Obstacle, Probe, Reached, Unreached};
pub use sources::SourceConfig;
pub use tls::{TlsError, TlsMode};

use crate::config::{Purpose, Settings};
use crate::hop_health::HopHealth;
use crate::pool::Pool;
use crate::worker::Worker;

/// What the role works with.
pub struct Setup {
    pub queue: Arc<dyn Queue>,
    pub resolver: Arc<dyn Resolver>,
    /// There is one before the role runs.
    pub domains: Arc<ArcSwapOption<Table>>,
    /// Asked before mail is bounced because DNS has nothing of a domain that the table lacks.
    pub absence: Arc<dyn Absence>,
    /// Our name: the argument of EHLO where there is no source, the Reporting-MTA, and, as those of
    /// sources and listeners, what an MX must not point back to.
    pub name: Host,
    /// Where DSNs go.
    pub route: Route,
    /// How long the queue leases a job.
    pub lease: Duration,
    pub metrics: Metrics,
}

/// The role, configured.
pub struct Delivery {
    settings: Arc<ArcSwap<Settings>>,
    setup: Setup,
}

/// Changes the configuration of the role, or of an [`Inquirer`], while it works.
#[derive(Clone)]
pub struct Live {
    settings: Arc<ArcSwap<Settings>>,
    purpose: Purpose,
}

/// A configuration that can be put in force.
pub struct Change {
    settings: Settings,
    live: Live,
}

impl Live {
    /// Checks the configuration and reads the files that it names; changes nothing. What is set up
    /// once stays as it was: `connections_max`, `idle_connection_seconds` and
    /// `probe_interval_seconds_max`.
    pub fn prepare(&self, config: Config) -> Result<Change, ConfigError> {
        let settings = self.purpose.settings(config)?;
        Ok(Change { settings, live: self.clone() })
    }
}

impl Change {
    /// Attempts and questions that begin from now on are made by it.
    pub fn apply(self) {
        self.live.settings.store(Arc::new(self.settings));
    }
}

impl Delivery {
    /// Checks the configuration and reads the files that it names.
    pub fn new(config: Config, setup: Setup) -> Result<Self, ConfigError> {
        let settings = Purpose::Delivery { lease: setup.lease }.settings(config)?;
        Ok(Self { settings: Arc::new(ArcSwap::from_pointee(settings)), setup })
    }

    /// By which its configuration is changed.
    pub fn live(&self) -> Live {
        let purpose = Purpose::Delivery { lease: self.setup.lease };
        Live { settings: Arc::clone(&self.settings), purpose }
    }

    /// Works until `shutdown`; then leases no more, finishes what is in flight within `grace` and
    /// gives the rest back.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        let Self { settings: live, setup } = self;
        let settings = live.load_full();
        let config = &settings.config;
        let probe_interval_max = Duration::from_secs(config.probe_interval_seconds_max);
        let worker = Worker {
            settler: Settler::new(setup.name.clone(), setup.route.clone(), config.retry.clone()),
            route: setup.route,
            health: Arc::new(HopHealth::new(probe_interval_max)),
            pool: Arc::new(Pool::new(Duration::from_secs(config.idle_connection_seconds))),
            live,
            settings,
            name: setup.name,
            queue: setup.queue,
            resolver: setup.resolver,
            domains: setup.domains,
            absence: setup.absence,
            lease: setup.lease,
            metrics: setup.metrics,
            stopping: shutdown,
        };
        Arc::new(worker).run(grace).await;
    }
}
