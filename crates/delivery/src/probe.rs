//! The way to a destination, tried without mail: hosts, connection, greeting, TLS, login, QUIT.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use domains::Gateway;
use futures::future::join_all;
use mail_types::{Domain, Host};
use prometheus_client::registry::Registry;
use queue::NextHop;
use resolve::Resolver;
use smtp::client::{SessionError, Step};
use tokio::time::timeout;

use crate::config::{Config, ConfigError, Purpose, Route, Settings, Way};
use crate::failure::HopFailure;
use crate::metrics::Metrics;
use crate::session::{Opener, Session, Target};
use crate::targets::{Finder, Targets};

/// Addresses of a destination that are looked at.
const ADDRESSES_MAX: usize = 16;
/// Of which so many may take time: somebody waits for the answer. Where there is no IPv6, its
/// addresses take none.
const TRIES_MAX: usize = 3;

/// Goes the way that a delivery would go, by the same routes, and sends nothing.
pub struct Probe {
    settings: Settings,
    resolver: Arc<dyn Resolver>,
    name: Host,
    metrics: Metrics,
    limit: Duration,
}

/// A host that took a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reached {
    /// `host[address]:port`.
    pub relay: Box<str>,
    /// TLS version and cipher suite; `None` in clear.
    pub tls: Option<Box<str>>,
    /// Why TLS, which the host offers, was not to be had.
    pub tls_failure: Option<Box<str>>,
}

/// Why no host took one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreached {
    pub obstacle: Obstacle,
    /// What happened at each address.
    pub detail: String,
}

/// How far it got, the shortest way first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Obstacle {
    /// There is no host to try.
    Destination,
    /// DNS gave no answer.
    Dns,
    /// No connection.
    Connection,
    /// A connection, and then nothing in time.
    Silence,
    /// The host does not want a session with us.
    Refusal,
    /// The TLS or the login that the route asks for was not to be had.
    Terms,
}

impl Probe {
    /// `limit` is for each connection and each answer, if the configuration has no smaller one.
    pub fn new(
        mut config: Config,
        resolver: Arc<dyn Resolver>,
        name: Host,
        limit: Duration,
    ) -> Result<Self, ConfigError> {
        config.addresses_per_attempt_max = config.addresses_per_attempt_max.min(ADDRESSES_MAX);
        let settings = Purpose::Visit { step: limit }.settings(config)?;
        let metrics = Metrics::register(&mut Registry::default());
        Ok(Self { settings, resolver, name, metrics, limit })
    }

    /// Whether a route gives mail for the domain to a host that it names.
    pub fn has_smarthost(&self, domain: &Domain) -> bool {
        matches!(self.settings.route(&Host::Domain(domain.clone())).way, Way::Smarthost(_))
    }

    /// Opens a session with the host of each route that names one; each host and port once.
    pub async fn open_smarthosts(&self) -> Vec<(String, Result<Reached, Unreached>)> {
        let mut smarthosts: Vec<(String, &Host, &Route)> = Vec::new();
        for (route, server) in self.settings.smarthosts() {
            let name = format!("{}:{}", server.host, server.port);
            if smarthosts.iter().all(|(other, ..)| *other != name) {
                smarthosts.push((name, &server.host, route));
            }
        }
        join_all(smarthosts.into_iter().map(async |(name, host, route)| {
            let opened = self.open_by(&NextHop::smtp(host), route).await;
            (name, opened)
        }))
        .await
    }

    /// Opens a session with a host that mail for the domain would be given to.
    pub async fn open(&self, domain: &Domain) -> Result<Reached, Unreached> {
        let host = Host::Domain(domain.clone());
        self.open_by(&NextHop::smtp(&host), self.settings.route(&host)).await
    }

    /// Opens a session with the server that a domain has of its own.
    pub async fn open_gateway(
        &self,
        domain: &Domain,
        gateway: &Arc<Gateway>,
    ) -> Result<Reached, Unreached> {
        let host = Host::Domain(domain.clone());
        let passwords = self.settings.config.gateway_passwords_dir.as_deref();
        let route = self.settings.route(&host).to_gateway(gateway, passwords);
        self.open_by(&NextHop::smtp(&host), &route).await
    }

    async fn open_by(&self, hop: &NextHop, route: &Route) -> Result<Reached, Unreached> {
        let finder =
            Finder { config: &self.settings.config, resolver: &*self.resolver, name: &self.name };
        let mut failures = Vec::new();
        match Targets::find(finder, hop, route).await {
            Err(failure) => failures.push(failure),
            Ok(mut targets) => {
                while let Some(target) = targets.next(finder).await {
                    let opened = match target {
                        Ok(target) => self.open_at(&target, route).await,
                        Err(failure) => Err(failure),
                    };
                    match opened {
                        Ok(reached) => return Ok(reached),
                        Err(failure) => failures.push(failure),
                    }
                    if failures.iter().filter(|failure| !has_no_route(failure)).count() == TRIES_MAX
                    {
                        break;
                    }
                }
            }
        }
        Err(Unreached::of(&failures))
    }

    async fn open_at(&self, target: &Target, route: &Route) -> Result<Reached, HopFailure> {
        let sender = self.name.to_string();
        let opener = Opener {
            settings: &self.settings,
            name: &self.name,
            sender: &sender,
            metrics: &self.metrics,
        };
        // Each step has its own time: this bounds a host that uses up all of them.
        let opening = timeout(self.limit * 4, opener.open(target, route));
        let error = SessionError::TimedOut(Step::Greeting);
        let late = |_| Err(HopFailure::Session { host: target.host.clone(), error });
        let session = opening.await.unwrap_or_else(late)?;
        let Session { connection, relay, tls, tls_failure, .. } = session;
        connection.quit().await;
        Ok(Reached { relay, tls, tls_failure })
    }
}

impl Unreached {
    fn of(failures: &[HopFailure]) -> Self {
        let obstacle = failures.iter().map(obstacle).max().unwrap_or(Obstacle::Destination);
        let mut details: Vec<String> = failures.iter().map(HopFailure::to_string).collect();
        details.dedup();
        Self { obstacle, detail: details.join(", ") }
    }
}

/// Whether the address is of a kind that this machine has no way to.
fn has_no_route(failure: &HopFailure) -> bool {
    let HopFailure::Connect { cause, .. } = failure else { return false };
    matches!(cause.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable)
}

fn obstacle(failure: &HopFailure) -> Obstacle {
    match failure {
        HopFailure::NoDomain(_)
        | HopFailure::NoAddress(_)
        | HopFailure::NullMx(_)
        | HopFailure::Loop(_)
        | HopFailure::Literal(_)
        | HopFailure::PrivateAddress(_)
        | HopFailure::HostUnknown(_)
        | HopFailure::Hosted(_)
        | HopFailure::Uncertain(_) => Obstacle::Destination,
        HopFailure::Dns { .. } => Obstacle::Dns,
        HopFailure::Connect { .. } | HopFailure::ConnectTimedOut { .. } => Obstacle::Connection,
        HopFailure::Session { error: SessionError::TimedOut(_), .. } => Obstacle::Silence,
        HopFailure::Session { .. } => Obstacle::Refusal,
        HopFailure::TlsNotOffered { .. }
        | HopFailure::TlsFailed { .. }
        | HopFailure::AuthNotOffered { .. }
        | HopFailure::AuthRefused { .. }
        | HopFailure::PasswordUnknown { .. } => Obstacle::Terms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_got_farthest_says_what_is_in_the_way() {
        let unreachable = std::io::Error::from(ErrorKind::NetworkUnreachable);
        let v6 = HopFailure::Connect { relay: "mx[2001:db8::1]:25".into(), cause: unreachable };
        let v4 = HopFailure::Session {
            host: "mx".into(),
            error: SessionError::TimedOut(Step::Greeting),
        };
        let unreached = Unreached::of(&[v4, v6]);
        assert_eq!(unreached.obstacle, Obstacle::Silence);
        assert!(unreached.detail.contains("2001:db8::1"), "{unreached:?}");
        assert_eq!(Unreached::of(&[]).obstacle, Obstacle::Destination);
    }
}
