//! The resolver that asks DNS, over hickory-resolver.

// Of DNS's many record types and errors we name those that mail acts on; all others are alike.
#![allow(clippy::wildcard_enum_match_arm)]

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use mail_types::Domain;
use serde::{Deserialize, Serialize};

use crate::{HostName, LookupError, MxRecord, Resolver};

/// How DNS is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Name servers as `address:port`; without any, those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// How long one server is waited for.
    pub timeout_seconds: NonZeroU64,
    /// How often a question is asked before it counts as unanswered.
    pub attempts: NonZeroUsize,
    /// Answers kept, each for its time to live.
    pub cache_entries: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            timeout_seconds: const { NonZeroU64::new(5).unwrap() },
            attempts: const { NonZeroUsize::new(2).unwrap() },
            cache_entries: 10_000,
        }
    }
}

/// Why DNS cannot be asked at all.
#[derive(Debug, thiserror::Error)]
#[error("the system's DNS configuration cannot be read; name servers in resolver.nameServers")]
pub struct OpenError(#[source] NetError);

/// Asks DNS.
#[derive(Clone)]
pub struct Dns(TokioResolver);

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dns")
    }
}

impl Dns {
    pub fn new(config: &Config) -> Result<Self, OpenError> {
        let mut builder = if config.name_servers.is_empty() {
            TokioResolver::builder_tokio().map_err(OpenError)?
        } else {
            let servers = config.name_servers.iter().map(|server| name_server(*server)).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(config.timeout_seconds.get());
        // Theirs are the tries after the first.
        options.attempts = config.attempts.get() - 1;
        options.cache_size = config.cache_entries;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        builder.build().map(Self).map_err(OpenError)
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// The name with its final dot: no search list is ever tried, in a cluster with `ndots:5` neither.
fn absolute(name: &str) -> Result<Name, LookupError> {
    Name::from_ascii(format!("{name}."))
        .map_err(|error| LookupError::Temporary(error.to_string().into()))
}

fn lookup_error(error: &NetError) -> LookupError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => LookupError::NoDomain,
            ResponseCode::NoError => LookupError::NoRecords,
            code => LookupError::Temporary(code.to_string().into()),
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::NXDomain)) => LookupError::NoDomain,
        other => LookupError::Temporary(other.to_string().into()),
    }
}

impl Dns {
    async fn records(&self, name: Name, kind: RecordType) -> Result<Vec<RData>, LookupError> {
        let lookup = self.0.lookup(name, kind).await.map_err(|error| lookup_error(&error))?;
        Ok(lookup.answers().iter().map(|record| record.data.clone()).collect())
    }
}

impl Dns {
    /// The names that an address leads back to (PTR), at least one.
    pub async fn names(&self, address: IpAddr) -> Result<Vec<HostName>, LookupError> {
        let records = self.records(Name::from(address), RecordType::PTR).await?;
        let name = |data: &RData| match data {
            RData::PTR(name) => HostName::parse(&name.to_ascii()).ok(),
            _ => None,
        };
        let found: Vec<HostName> = records.iter().filter_map(name).collect();
        if found.is_empty() { Err(LookupError::NoRecords) } else { Ok(found) }
    }
}

#[async_trait]
impl Resolver for Dns {
    async fn mx(&self, domain: &Domain) -> Result<Vec<MxRecord>, LookupError> {
        let records = self.records(absolute(domain.as_str())?, RecordType::MX).await?;
        let mx = |data: &RData| match data {
            RData::MX(mx) if mx.exchange.is_root() => {
                Some(MxRecord { preference: mx.preference, exchange: None })
            }
            // An exchange that is no name (an address, say) is passed over, not looked up.
            RData::MX(mx) => HostName::parse(&mx.exchange.to_ascii())
                .ok()
                .map(|host| MxRecord { preference: mx.preference, exchange: Some(host) }),
            _ => None,
        };
        let has_mx = records.iter().any(|data| matches!(data, RData::MX(_)));
        let found: Vec<MxRecord> = records.iter().filter_map(mx).collect();
        match (found.is_empty(), has_mx) {
            (false, _) => Ok(found),
            (true, false) => Err(LookupError::NoRecords),
            (true, true) => Err(LookupError::Temporary("no MX record names a host".into())),
        }
    }

    async fn addresses(&self, host: &HostName) -> Result<Vec<IpAddr>, LookupError> {
        let name = absolute(host.as_str())?;
        let v4 = self.records(name.clone(), RecordType::A);
        let (v4, v6) = futures::join!(v4, self.records(name, RecordType::AAAA));
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        let answers = [&v6, &v4].into_iter().flatten().flatten();
        let found: Vec<IpAddr> = answers.filter_map(address).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        // One family may fail while the other is absent: that is no proof of absence.
        match (v4.err(), v6.err()) {
            (Some(error @ LookupError::Temporary(_)), _)
            | (_, Some(error @ LookupError::Temporary(_))) => Err(error),
            (Some(LookupError::NoDomain), Some(LookupError::NoDomain)) => {
                Err(LookupError::NoDomain)
            }
            _ => Err(LookupError::NoRecords),
        }
    }
}
