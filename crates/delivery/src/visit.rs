//! Sessions that carry no mail, opened as those of a delivery are.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mail_types::Host;
use prometheus_client::registry::Registry;
use queue::NextHop;
use resolve::Resolver;
use smtp::client::{SessionError, Step};
use tokio::time::timeout;

use crate::Live;
use crate::config::{Config, ConfigError, Purpose, Route, Settings};
use crate::failure::HopFailure;
use crate::metrics::Metrics;
use crate::session::{Opener, Session, Target};
use crate::targets::{Finder, Targets};

/// Goes the way that a delivery would go: by the same routes and hosts, with the same TLS and
/// login.
pub(crate) struct Visitor {
    settings: Arc<ArcSwap<Settings>>,
    resolver: Arc<dyn Resolver>,
    /// Our name.
    name: Host,
    /// Of deliveries: nobody reads these.
    metrics: Metrics,
    /// For each connection and each answer.
    step: Duration,
}

/// Where somebody is visited, and how.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) hop: &'a NextHop,
    pub(crate) route: &'a Route,
    /// By whom the source is chosen.
    pub(crate) sender: &'a str,
    /// Addresses that may take time. Where there is no IPv6, its addresses take none.
    pub(crate) tries_max: usize,
}

impl Visitor {
    /// Each connection and each answer has `step`, if the configuration does not give it less.
    pub(crate) fn new(
        config: Config,
        resolver: Arc<dyn Resolver>,
        name: Host,
        step: Duration,
    ) -> Result<Self, ConfigError> {
        let settings = Purpose::Visit { step }.settings(config)?;
        let metrics = Metrics::register(&mut Registry::default());
        Ok(Self {
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            resolver,
            name,
            metrics,
            step,
        })
    }

    /// By which its configuration is changed.
    pub(crate) fn live(&self) -> Live {
        let purpose = Purpose::Visit { step: self.step };
        Live { settings: Arc::clone(&self.settings), purpose }
    }

    /// Those in force.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// A session with the first host that takes one, or why each did not.
    pub(crate) async fn open(&self, visit: Visit<'_>) -> Result<Session, Vec<HopFailure>> {
        let Visit { settings, hop, route, sender, tries_max } = visit;
        let finder = Finder { settings, resolver: &*self.resolver, name: &self.name };
        let opener = Opener { settings, name: &self.name, sender, metrics: &self.metrics };
        let targets = Targets::find(finder, hop, route).await;
        let mut targets = targets.map_err(|failure| vec![failure])?;
        let mut failures = Vec::new();
        while let Some(target) = targets.next(finder).await {
            let opened = match target {
                Ok(target) => self.open_at(opener, &target, route).await,
                Err(failure) => Err(failure),
            };
            match opened {
                Ok(session) => return Ok(session),
                Err(failure) => failures.push(failure),
            }
            if failures.iter().filter(|failure| !has_no_route(failure)).count() == tries_max {
                break;
            }
        }
        Err(failures)
    }

    async fn open_at(
        &self,
        opener: Opener<'_>,
        target: &Target,
        route: &Route,
    ) -> Result<Session, HopFailure> {
        // Each step has its own time: this bounds a host that uses up all of them.
        let opening = timeout(self.step * 4, opener.open(target, route));
        let error = SessionError::TimedOut(Step::Greeting);
        let late = |_| Err(HopFailure::Session { host: target.host.clone(), error });
        opening.await.unwrap_or_else(late)
    }
}

/// Whether the address is of a kind that this machine has no way to.
fn has_no_route(failure: &HopFailure) -> bool {
    let HopFailure::Connect { cause, .. } = failure else { return false };
    matches!(cause.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable)
}
