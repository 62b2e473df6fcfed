//! The way out: a session with hosts that mail would be given to, and nothing sent.

use std::sync::Arc;

use delivery::{Obstacle, Probe, Reached, Unreached};
use futures::future::join_all;
use mail_types::Domain;

use super::finding::{Finding, Level, What};
use super::{LIMIT, Site, dns};
use crate::serve::Role;

/// Hosted domains whose mail goes elsewhere first, that are tried.
const HOSTED_MAX: usize = 3;
/// Gateway domains whose servers are tried, in order of their names.
const GATEWAYS_MAX: usize = 20;

/// Whom the connection was for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The hosts that a domain's MX records name.
    Domain,
    /// The host that a route names.
    Smarthost,
    /// The server that a domain of ours has of its own.
    Gateway,
}

pub(super) async fn findings(site: &Site) -> Vec<Finding> {
    let resolver = Arc::new(site.lookup.clone());
    let settings = site.config.delivery.clone();
    let probe = match Probe::new(settings, resolver, site.host.clone(), LIMIT) {
        Ok(probe) => probe,
        Err(error) => return vec![What::Outbound.error(error.to_string(), "correct delivery")],
    };
    let is_worker = site.is(Role::Worker);
    let domains = if is_worker { destinations(site).await } else { Vec::new() };
    let by_domain = domains.iter().map(async |domain| {
        let way = if probe.has_smarthost(domain) { Way::Smarthost } else { Way::Domain };
        judge(domain.as_str(), way, &probe.open(domain).await)
    });
    let mut gateways: Vec<_> = site.table.iter().flat_map(|table| table.gateways()).collect();
    gateways.sort_by_key(|(domain, _)| *domain);
    let by_gateway = gateways.into_iter().take(GATEWAYS_MAX).map(async |(domain, gateway)| {
        judge(domain.as_str(), Way::Gateway, &probe.open_gateway(domain, gateway).await)
    });
    let smarthosts = async { if is_worker { probe.open_smarthosts().await } else { Vec::new() } };
    let (smarthosts, by_domain, by_gateway) =
        tokio::join!(smarthosts, join_all(by_domain), join_all(by_gateway));
    let smarthosts = smarthosts.iter();
    let by_smarthost = smarthosts.map(|(name, opened)| judge(name, Way::Smarthost, opened));
    let mut findings: Vec<Finding> = by_smarthost.chain(by_domain).chain(by_gateway).collect();
    if is_worker && domains.is_empty() && is_direct(site) {
        findings.push(What::Outbound.warning(
            "no way by MX records was tried: no other domain is known",
            "name one that gets mail from here, with --to DOMAIN",
        ));
    }
    findings
}

/// Whether mail goes to the hosts of other domains, and not all of it to a smarthost.
pub(super) fn is_direct(site: &Site) -> bool {
    let mut routes = site.config.delivery.routes.iter();
    !routes.any(|route| route.domain == "*" && route.host.is_some())
}

/// The domains asked for; without any, hosted ones whose mail goes elsewhere first. A connection to
/// ourselves would say nothing about the way out.
async fn destinations(site: &Site) -> Vec<Domain> {
    if !site.to.is_empty() || !is_direct(site) {
        return site.to.clone();
    }
    dns::led_elsewhere(site, HOSTED_MAX).await
}

fn judge(name: &str, way: Way, opened: &Result<Reached, Unreached>) -> Finding {
    let unreached = match opened {
        Ok(Reached { relay, tls_failure: Some(cause), .. }) => {
            let detail =
                format!("{name}: {relay} took a session, but in clear: TLS failed: {cause}");
            let remedy = "if other hosts do so too, something between them and us is in its way";
            return What::Outbound.warning(detail, remedy);
        }
        Ok(Reached { relay, tls, .. }) => {
            let tls = tls.as_deref().unwrap_or("no TLS");
            return What::Outbound.ok(format!("{name}: {relay} took a session ({tls})"));
        }
        Err(unreached) => unreached,
    };
    let (level, remedy) = match (unreached.obstacle, way) {
        (Obstacle::Destination, Way::Domain) => (Level::Error, "name another domain with --to"),
        (Obstacle::Destination, Way::Smarthost) => (Level::Error, "correct delivery.routes"),
        (Obstacle::Destination, Way::Gateway) => (Level::Error, "correct relay.hosts"),
        (Obstacle::Dns, _) => (Level::Error, "see what is said of dns"),
        (Obstacle::Connection, Way::Domain) => (Level::Error, BLOCKED),
        (Obstacle::Connection, Way::Smarthost | Way::Gateway) => {
            (Level::Error, "is it running there, and does a firewall let connections to it out?")
        }
        // Some greet late to tell clients from bots; delivery waits for minutes.
        (Obstacle::Silence, _) => {
            (Level::Warning, "the port is open, and some servers greet late; try again")
        }
        // One of many servers, which may have its own idea of who we are.
        (Obstacle::Refusal, Way::Domain) => {
            (Level::Warning, "the port is open; its reply says what it has against us")
        }
        (Obstacle::Refusal, Way::Smarthost | Way::Gateway) => (Level::Error, "its reply says why"),
        (Obstacle::Terms, Way::Gateway) => (Level::Error, "correct relay.tls and relay.auth"),
        (Obstacle::Terms, Way::Domain | Way::Smarthost) => {
            (Level::Error, "correct tls and auth of the route")
        }
    };
    What::Outbound.found(level, format!("{name}: {}", unreached.detail), remedy)
}

const BLOCKED: &str = "let connections to port 25 out: many providers block it until asked; \
                       or name a smarthost in delivery.routes";

#[cfg(test)]
mod tests {
    use super::*;

    fn level(obstacle: Obstacle, way: Way) -> Level {
        let unreached = Unreached { obstacle, detail: "connect to mx[192.0.2.1]:25".into() };
        judge("a.example", way, &Err(unreached)).level
    }

    #[test]
    fn what_is_in_the_way() {
        let reached = Reached { relay: "mx[192.0.2.1]:25".into(), tls: None, tls_failure: None };
        let failed = Reached { tls_failure: Some("bad certificate".into()), ..reached.clone() };
        assert_eq!(judge("a.example", Way::Domain, &Ok(failed)).level, Level::Warning);
        let finding = judge("a.example", Way::Domain, &Ok(reached));
        assert_eq!(finding.detail, "a.example: mx[192.0.2.1]:25 took a session (no TLS)");
        for obstacle in
            [Obstacle::Destination, Obstacle::Dns, Obstacle::Connection, Obstacle::Terms]
        {
            assert_eq!(level(obstacle, Way::Domain), Level::Error, "{obstacle:?}");
            assert_eq!(level(obstacle, Way::Smarthost), Level::Error, "{obstacle:?}");
            assert_eq!(level(obstacle, Way::Gateway), Level::Error, "{obstacle:?}");
        }
        assert_eq!(level(Obstacle::Silence, Way::Domain), Level::Warning);
        assert_eq!(level(Obstacle::Refusal, Way::Domain), Level::Warning);
        assert_eq!(level(Obstacle::Refusal, Way::Smarthost), Level::Error);
    }
}
