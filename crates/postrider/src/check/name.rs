//! Our own names, as other servers check them: each leads to addresses, and they lead back to it.

use std::net::IpAddr;

use delivery::SourceConfig;
use futures::future::{join, join_all};
use mail_types::Host;
use resolve::{HostName, LookupError, Resolver, private_address};

use super::Site;
use super::finding::{Finding, Level, What};
use super::outbound;
use crate::serve::Role;

/// An address of our name, and where it leads back to.
struct Reverse {
    address: IpAddr,
    names: Result<Vec<HostName>, LookupError>,
}

pub(super) async fn findings(site: &Site) -> Vec<Finding> {
    let names = names(site);
    let sources = site.config.delivery.sources.iter().filter(|_| site.is(Role::Worker));
    let (findings, of_sources) = join(
        join_all(names.iter().map(|host| of_name(site, host))),
        join_all(sources.map(|source| of_source(site, source))),
    )
    .await;
    findings.into_iter().flatten().chain(of_sources.into_iter().flatten()).collect()
}

/// Whether the name that is said from an address leads to it. An address of a private network is
/// another one where it is seen: which is not known here.
async fn of_source(site: &Site, source: &SourceConfig) -> Option<Finding> {
    let name = HostName::from(Host::parse(&source.name).ok()?.domain()?);
    if private_address(source.address) {
        return None;
    }
    // That there are none is said of the name.
    let addresses = site.lookup.addresses(&name).await.ok()?;
    judge_source(source.address, &name, &addresses)
}

fn judge_source(address: IpAddr, name: &HostName, leads_to: &[IpAddr]) -> Option<Finding> {
    (!leads_to.contains(&address)).then(|| {
        What::Name.error(
            format!("mail leaves by {address} under the name {name}, which leads elsewhere"),
            format!("add a record of {name} with {address}, or name the source as its PTR does"),
        )
    })
}

/// What we say that we are: to everybody, at a listener, from an address. Each once.
fn names(site: &Site) -> Vec<Host> {
    let listeners = site.config.ingress.listeners.iter().filter(|_| site.is(Role::Ingress));
    let sources = site.config.delivery.sources.iter().filter(|_| site.is(Role::Worker));
    let sources = sources.map(|source| &source.name);
    let others = listeners.filter_map(|listener| listener.hostname.as_ref()).chain(sources);
    let mut names = vec![site.host.clone()];
    for name in others.filter_map(|name| Host::parse(name).ok()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

async fn of_name(site: &Site, host: &Host) -> Vec<Finding> {
    let Some(name) = host.domain().map(HostName::from) else {
        return vec![judge_literal(host)];
    };
    let addresses = match site.lookup.addresses(&name).await {
        Ok(addresses) => addresses,
        Err(error) => return vec![judge_absence(&name, &error)],
    };
    let reverse = addresses.into_iter().map(async |address| {
        let names = match private_address(address) {
            true => Ok(Vec::new()),
            false => site.lookup.names(address).await,
        };
        Reverse { address, names }
    });
    let reverse = join_all(reverse).await;
    // Who gives all mail to a smarthost, or sends none, is not asked for his name by anybody else.
    let is_asked = site.is(Role::Worker) && outbound::is_direct(site);
    let gravity = if is_asked { Level::Error } else { Level::Warning };
    reverse.iter().map(|reverse| judge_reverse(&name, reverse, gravity)).collect()
}

fn judge_literal(host: &Host) -> Finding {
    let detail = format!("we say that we are {host}: many servers refuse a client without a name");
    What::Name.warning(detail, "say a name that leads to this address")
}

fn judge_absence(name: &HostName, error: &LookupError) -> Finding {
    match error {
        LookupError::NoDomain | LookupError::NoRecords => What::Name.error(
            format!("{name} leads to no address: {error}"),
            "add an A or AAAA record, or say a name that has one",
        ),
        LookupError::Temporary(_) => {
            What::Name.error(format!("{name}: {error}"), "see what is said of dns")
        }
    }
}

fn judge_reverse(name: &HostName, reverse: &Reverse, gravity: Level) -> Finding {
    let address = reverse.address;
    if private_address(address) {
        return What::Name.warning(
            format!("{name} leads to {address}, which is not an address of the Internet"),
            "add a record with the address by which others reach this server",
        );
    }
    match &reverse.names {
        Ok(names) if names.contains(name) => {
            What::Name.ok(format!("{name} leads to {address}, and that back to it"))
        }
        Ok(names) => {
            let names: Vec<&str> = names.iter().map(HostName::as_str).collect();
            What::Name.warning(
                format!("{name} leads to {address}, and that to {} instead", names.join(", ")),
                format!("have whoever gave you the address set its PTR record to {name}"),
            )
        }
        Err(error @ (LookupError::NoDomain | LookupError::NoRecords)) => What::Name.found(
            gravity,
            format!("{name} leads to {address}, and that back to no name: {error}"),
            format!("have whoever gave you the address set its PTR record to {name}"),
        ),
        Err(error @ LookupError::Temporary(_)) => What::Name.warning(
            format!("{name} leads to {address}, of which the name is not known: {error}"),
            "try again; see what is said of dns",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    fn level(address: &str, names: Result<&[&str], LookupError>) -> Level {
        let names = names.map(|names| names.iter().map(|name| host(name)).collect());
        let reverse = Reverse { address: address.parse().unwrap(), names };
        judge_reverse(&host("mx.a.example"), &reverse, Level::Error).level
    }

    #[test]
    fn an_address_leads_back() {
        let temporary = LookupError::Temporary("SERVFAIL".into());
        assert_eq!(level("192.0.2.1", Ok(&["b.example", "mx.a.example"])), Level::Ok);
        assert_eq!(level("192.0.2.1", Ok(&["host-1.b.example"])), Level::Warning);
        assert_eq!(level("192.0.2.1", Err(LookupError::NoDomain)), Level::Error);
        assert_eq!(level("2001:db8::1", Err(LookupError::NoRecords)), Level::Error);
        assert_eq!(level("192.0.2.1", Err(temporary)), Level::Warning);
        assert_eq!(level("127.0.0.1", Ok(&["mx.a.example"])), Level::Warning);
        assert_eq!(level("10.0.0.1", Ok(&[])), Level::Warning);
    }

    #[test]
    fn a_source_is_where_its_name_leads() {
        let [own, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        let judge = |leads_to: &[IpAddr]| judge_source(own, &host("out1.a.example"), leads_to);
        assert_eq!(judge(&[other, own]), None);
        let finding = judge(&[other]).unwrap();
        assert_eq!(finding.level, Level::Error);
        assert!(finding.to_string().contains("192.0.2.1"), "{finding}");
    }

    #[test]
    fn a_name_leads_somewhere() {
        let name = host("mx.a.example");
        assert_eq!(judge_absence(&name, &LookupError::NoDomain).level, Level::Error);
        let finding = judge_absence(&name, &LookupError::NoRecords);
        assert!(finding.to_string().contains("mx.a.example"), "{finding}");
        let literal = Host::parse("[192.0.2.1]").unwrap();
        assert_eq!(judge_literal(&literal).level, Level::Warning);
    }
}
