//! The way to a destination, tried without mail: hosts, connection, greeting, TLS, login, QUIT.

use std::sync::Arc;
use std::time::Duration;

use domains::Gateway;
use futures::future::join_all;
use mail_types::{Domain, Host};
use queue::NextHop;
use resolve::Resolver;
use smtp::client::SessionError;

use crate::config::{Config, ConfigError, Route, Settings, Way};
use crate::failure::HopFailure;
use crate::session::Session;
use crate::visit::{Visit, Visitor};

/// Addresses of a destination that are looked at.
const ADDRESSES_MAX: usize = 16;
/// Of which so many may take time: somebody waits for the answer.
const TRIES_MAX: usize = 3;

/// Goes the way that a delivery would go, by the same routes, and sends nothing.
pub struct Probe {
    visitor: Visitor,
    settings: Arc<Settings>,
    name: Host,
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
        let visitor = Visitor::new(config, resolver, name.clone(), limit)?;
        Ok(Self { settings: visitor.settings(), visitor, name })
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
        let route = self.settings.route_to_gateway(&host, gateway);
        self.open_by(&NextHop::smtp(&host), &route).await
    }

    async fn open_by(&self, hop: &NextHop, route: &Route) -> Result<Reached, Unreached> {
        let sender = &self.name.to_string();
        let settings = &self.settings;
        let visit = Visit { settings, hop, route, sender, tries_max: TRIES_MAX };
        let opened = self.visitor.open(visit).await;
        let session = opened.map_err(|failures| Unreached::of(&failures))?;
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
    use std::io::ErrorKind;

    use smtp::client::Step;

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
