//! Our own names, as other servers check them: each leads to addresses, and they lead back to it.

use std::net::IpAddr;

use futures::future::join_all;
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

/// A name that we say that we have.
struct Said {
    name: Host,
    /// Where mail leaves from under it.
    sources: Vec<IpAddr>,
}

pub(super) async fn findings(site: &Site) -> Vec<Finding> {
    let names = names(site);
    let findings = join_all(names.iter().map(|said| of_name(site, said))).await;
    findings.into_iter().flatten().collect()
}

/// What we say that we are: to everybody, at a listener, from an address. Each once.
fn names(site: &Site) -> Vec<Said> {
    let listeners = if site.is(Role::Ingress) { site.listener_names() } else { Vec::new() };
    let own = [site.host.clone()].into_iter().chain(listeners).map(|name| (name, None));
    let sources = site.config.delivery.sources.iter().filter(|_| site.is(Role::Worker));
    let sources = sources.filter_map(|it| Some((Host::parse(&it.name).ok()?, Some(it.address))));
    let mut names: Vec<Said> = Vec::new();
    for (name, source) in own.chain(sources) {
        match names.iter_mut().find(|said| said.name == name) {
            Some(said) => said.sources.extend(source),
            None => names.push(Said { name, sources: source.into_iter().collect() }),
        }
    }
    names
}

/// Whether the name that is said from an address leads to it. An address of a private network is
/// another one where it is seen: which is not known here.
fn judge_source(address: IpAddr, name: &HostName, leads_to: &[IpAddr]) -> Option<Finding> {
    (!private_address(address) && !leads_to.contains(&address)).then(|| {
        What::Name.error(
            format!("mail leaves by {address} under the name {name}, which leads elsewhere"),
            format!("add a record of {name} with {address}, or name the source as its PTR does"),
        )
    })
}

async fn of_name(site: &Site, Said { name: host, sources }: &Said) -> Vec<Finding> {
    let Some(name) = host.domain().map(HostName::from) else {
        return vec![judge_literal(host)];
    };
    let addresses = match site.lookup.addresses(&name).await {
        Ok(addresses) => addresses,
        Err(error) => return vec![judge_absence(&name, &error)],
    };
    let of_sources = sources.iter().filter_map(|source| judge_source(*source, &name, &addresses));
    let of_sources: Vec<Finding> = of_sources.collect();
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
    let reverse = reverse.iter().map(|reverse| judge_reverse(&name, reverse, gravity));
    reverse.chain(of_sources).collect()
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
        let private = "10.0.0.1".parse().unwrap();
        assert_eq!(judge_source(private, &host("out1.a.example"), &[other]), None);
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
