//! The addresses of a next hop, in the order in which they are tried.

use std::collections::VecDeque;
use std::net::IpAddr;

use domains::Server;
use mail_types::{AddressLiteral, Domain, Host};
use queue::NextHop;
use rand::seq::SliceRandom;
use resolve::{HostName, LookupError, MxPlan, Resolver, mx_plan, private_address};

use crate::attempt::host_of;
use crate::config::{Route, Settings, Way};
use crate::failure::HopFailure;
use crate::session::Target;

/// What hosts and their addresses are found with.
#[derive(Clone, Copy)]
pub(crate) struct Finder<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) resolver: &'a dyn Resolver,
    /// Our name: an MX that is no better than us is not tried.
    pub(crate) name: &'a Host,
}

impl Finder<'_> {
    /// Whether it is a name of ours: the one, or that of a listener or a source.
    fn is_own(self, host: &HostName) -> bool {
        let names = [self.name].into_iter().chain(self.settings.other_names());
        names.filter_map(Host::domain).any(|name| HostName::from(name) == *host)
    }
}

/// A host not resolved yet, and its port.
#[derive(Debug)]
struct Unresolved {
    host: Named,
    port: u16,
}

#[derive(Debug)]
enum Named {
    Name(HostName),
    Address(IpAddr),
}

/// Hands out one address after the other; a host is resolved when it is its turn.
#[derive(Debug)]
pub(crate) struct Targets {
    name: String,
    hosts: VecDeque<Unresolved>,
    addresses: VecDeque<Target>,
    /// Addresses that may still be handed out; a host without any counts as one.
    left: usize,
    /// The hosts were named by people of ours, not by DNS.
    is_ours: bool,
    private_allowed: bool,
}

impl Targets {
    /// Finds the hosts of a next hop: the route's, those of its MX records, or itself
    /// (RFC 5321 §5.1).
    pub(crate) async fn find(
        finder: Finder<'_>,
        hop: &NextHop,
        route: &Route,
    ) -> Result<Self, HopFailure> {
        match &route.way {
            Way::Exchangers(port) => {
                let target = host_of(hop)?;
                let hosts = match &target {
                    Host::Domain(domain) => mail_exchangers(finder, domain).await?,
                    Host::Literal(_) => vec![named(&target)?],
                };
                let hosts = hosts.into_iter().map(|host| Unresolved { host, port: *port });
                let is_ours = false;
                Ok(Self::new(finder, target.to_string(), hosts.collect(), is_ours))
            }
            Way::Smarthost(server) => {
                Self::of_servers(finder, server.host.to_string(), std::slice::from_ref(server))
            }
            Way::Gateway(gateway) => {
                Self::of_servers(finder, hop.key().to_owned(), &gateway.servers)
            }
            Way::Mailboxes => Err(HopFailure::Hosted(hop.key().to_owned())),
        }
    }

    /// In the order given.
    pub(crate) fn of_servers(
        finder: Finder<'_>,
        name: String,
        servers: &[Server],
    ) -> Result<Self, HopFailure> {
        let mut hosts = VecDeque::new();
        for server in servers {
            hosts.push_back(Unresolved { host: named(&server.host)?, port: server.port });
        }
        Ok(Self::new(finder, name, hosts, true))
    }

    fn new(finder: Finder<'_>, name: String, hosts: VecDeque<Unresolved>, is_ours: bool) -> Self {
        let config = &finder.settings.config;
        Self {
            name,
            hosts,
            addresses: VecDeque::new(),
            left: config.addresses_per_attempt_max,
            is_ours,
            private_allowed: config.allow_private_addresses || is_ours,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The next address, or why a host has none; `None` when all have been handed out.
    pub(crate) async fn next(&mut self, finder: Finder<'_>) -> Option<Result<Target, HopFailure>> {
        if self.left == 0 {
            return None;
        }
        loop {
            if let Some(target) = self.addresses.pop_front() {
                self.left -= 1;
                return Some(Ok(target));
            }
            let Unresolved { host, port } = self.hosts.pop_front()?;
            let resolved = match host {
                Named::Address(address) => self.admit(&address.to_string(), vec![address], port),
                Named::Name(name) => match self.look_up(finder, &name).await {
                    Ok(addresses) => self.admit(&name.to_string(), addresses, port),
                    Err(failure) => Err(failure),
                },
            };
            match resolved {
                Ok(addresses) => self.addresses = addresses,
                Err(failure) => {
                    // A domain may name thousands of hosts that no name server answers for.
                    self.left -= 1;
                    return Some(Err(failure));
                }
            }
        }
    }

    async fn look_up(
        &self,
        finder: Finder<'_>,
        name: &HostName,
    ) -> Result<Vec<IpAddr>, HopFailure> {
        let mut addresses = finder.resolver.addresses(name).await.map_err(|error| match error {
            LookupError::NoDomain | LookupError::NoRecords if self.is_ours => {
                HopFailure::HostUnknown(name.to_string())
            }
            LookupError::NoDomain | LookupError::NoRecords => {
                HopFailure::NoAddress(self.name.clone())
            }
            LookupError::Temporary(cause) => {
                HopFailure::Dns { name: name.to_string(), cause: cause.to_string() }
            }
        })?;
        addresses.shuffle(&mut rand::rng());
        Ok(addresses)
    }

    /// Drops addresses inside: a foreign MX may point anywhere, also at what only we can reach.
    fn admit(
        &self,
        host: &str,
        addresses: Vec<IpAddr>,
        port: u16,
    ) -> Result<VecDeque<Target>, HopFailure> {
        let admitted: VecDeque<Target> = addresses
            .into_iter()
            .filter(|address| self.private_allowed || !private_address(*address))
            .map(|address| Target { host: host.to_owned(), address: (address, port).into() })
            .collect();
        match admitted.is_empty() {
            true => Err(HopFailure::PrivateAddress(self.name.clone())),
            false => Ok(admitted),
        }
    }
}

/// A host by its name or its address.
fn named(host: &Host) -> Result<Named, HopFailure> {
    match host {
        Host::Domain(name) => Ok(Named::Name(HostName::from(name))),
        Host::Literal(AddressLiteral::Ip(address)) => Ok(Named::Address(*address)),
        Host::Literal(AddressLiteral::General { .. }) => Err(HopFailure::Literal(host.to_string())),
    }
}

/// The hosts of a domain's MX records by preference, or the domain itself when it has none.
async fn mail_exchangers(finder: Finder<'_>, domain: &Domain) -> Result<Vec<Named>, HopFailure> {
    let itself = || vec![Named::Name(HostName::from(domain))];
    let records = match finder.resolver.mx(domain).await {
        Ok(records) => records,
        Err(LookupError::NoRecords) => return Ok(itself()),
        Err(LookupError::NoDomain) => return Err(HopFailure::NoDomain(domain.to_string())),
        Err(LookupError::Temporary(cause)) => {
            return Err(HopFailure::Dns { name: domain.to_string(), cause: cause.to_string() });
        }
    };
    match mx_plan(records, &mut rand::rng(), |host| finder.is_own(host)) {
        MxPlan::Hosts(hosts) => Ok(hosts.into_iter().map(Named::Name).collect()),
        MxPlan::NullMx => Err(HopFailure::NullMx(domain.to_string())),
        MxPlan::Loop => Err(HopFailure::Loop(domain.to_string())),
    }
}
