//! The name servers, and where they say that mail for hosted domains goes.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use mail_types::{AddressLiteral, Domain, Host};
use resolve::{HostName, LookupError, MxRecord, Resolver};
use tokio::time::{Instant, timeout_at};

use super::Site;
use super::finding::{Finding, What};
use super::lookup::Lookup;

/// Domains that are looked up at the same time.
const DOMAINS_AT_ONCE: usize = 32;
/// For all of them: somebody waits.
const DOMAINS_LIMIT: Duration = Duration::from_secs(30);
/// Mail exchangers of a domain whose addresses are looked up.
const EXCHANGES_MAX: usize = 10;
/// What nobody has (RFC 2606 §2).
const NOBODYS: &str = "postmaster.example";
/// Domains that a line names.
const NAMED_MAX: usize = 5;

/// Where other servers take a domain's mail.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Lead {
    Here,
    /// To these hosts, none of which is known to be us.
    Elsewhere(Vec<String>),
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// It does not exist, or has neither MX nor address.
    Nowhere,
    Unknown(String),
}

/// A host that takes a domain's mail, and its addresses.
type Exchange = (HostName, Result<Vec<IpAddr>, LookupError>);

pub(super) async fn findings(site: &Site) -> Vec<Finding> {
    let servers = ask_servers(site).await;
    let answers = servers.iter().any(|(_, answer)| answer.is_ok());
    let mut findings: Vec<Finding> =
        servers.iter().map(|(server, answer)| judge_server(server, answer, answers)).collect();
    // Without DNS nothing is known of domains, and each would take its time to say so.
    if answers {
        let (leads, left) = leads(site).await;
        findings.extend(judge_domains(site.host.to_string().as_str(), &leads, left));
    }
    findings
}

/// Hosted domains whose mail goes to other hosts than this one, `max` at most.
pub(super) async fn led_elsewhere(site: &Site, max: usize) -> Vec<Domain> {
    let (leads, _) = leads(site).await;
    let elsewhere = leads.into_iter().filter(|(_, lead)| matches!(lead, Lead::Elsewhere(_)));
    elsewhere.map(|(domain, _)| domain).take(max).collect()
}

/// Asks each server for our own name: that it does not exist is an answer, too. Without one, our
/// zone may be ill and not the server: then for a name that nobody has.
async fn ask_servers(site: &Site) -> Vec<(String, Result<(), String>)> {
    let config = &site.config.resolver;
    let name = site.host.domain().map(HostName::from);
    let name = name.or_else(|| HostName::parse(NOBODYS).ok());
    let mut servers = Vec::new();
    if config.name_servers.is_empty() {
        servers.push(("the system's name server".to_owned(), Ok(site.lookup.clone())));
    }
    for server in &config.name_servers {
        servers.push((server.to_string(), Lookup::at(config, *server)));
    }
    join_all(servers.into_iter().zip(std::iter::repeat(name)).map(
        async |((server, lookup), name)| {
            let answer = match (lookup, name) {
                (Ok(lookup), Some(name)) => match answers(&lookup, &name).await {
                    Ok(()) => Ok(()),
                    Err(cause) => match HostName::parse(NOBODYS) {
                        Ok(nobodys) => answers(&lookup, &nobodys).await,
                        Err(_) => Err(cause),
                    },
                },
                (Err(error), _) => Err(error.to_string()),
                (_, None) => Ok(()),
            };
            (server, answer)
        },
    ))
    .await
}

async fn answers(lookup: &Lookup, name: &HostName) -> Result<(), String> {
    match lookup.addresses(name).await {
        Err(LookupError::Temporary(cause)) => Err(cause.to_string()),
        Ok(_) | Err(LookupError::NoDomain | LookupError::NoRecords) => Ok(()),
    }
}

fn judge_server(server: &str, answer: &Result<(), String>, another_answers: bool) -> Finding {
    let remedy = "correct resolver.nameServers, or the system's name servers without them";
    match answer {
        Ok(()) => What::Dns.ok(format!("{server} answers")),
        Err(cause) if another_answers => {
            What::Dns.warning(format!("{server} gives no answer: {cause}"), remedy)
        }
        Err(cause) => What::Dns.error(format!("{server} gives no answer: {cause}"), remedy),
    }
}

/// Where the hosted domains' mail goes, and how many were not looked up in time.
async fn leads(site: &Site) -> (Vec<(Domain, Lead)>, usize) {
    let own_name = site.host.domain().map(HostName::from);
    let own_addresses = match (&own_name, &site.host) {
        (Some(name), _) => site.lookup.addresses(name).await.unwrap_or_default(),
        (None, Host::Literal(AddressLiteral::Ip(address))) => vec![*address],
        (None, _) => Vec::new(),
    };
    let (lookup, own) = (&site.lookup, (own_name.as_ref(), own_addresses.as_slice()));
    let domains = site.hosted_domains();
    let total = domains.len();
    let looked_up = domains.into_iter().map(async |domain| {
        let lead = lead(lookup, &domain, own).await;
        (domain, lead)
    });
    let mut looked_up = futures::stream::iter(looked_up).buffer_unordered(DOMAINS_AT_ONCE);
    let (mut leads, deadline) = (Vec::new(), Instant::now() + DOMAINS_LIMIT);
    while let Ok(Some(lead)) = timeout_at(deadline, looked_up.next()).await {
        leads.push(lead);
    }
    leads.sort_by(|(one, _), (other, _)| one.cmp(other));
    let left = total - leads.len();
    (leads, left)
}

async fn lead(lookup: &Lookup, domain: &Domain, own: (Option<&HostName>, &[IpAddr])) -> Lead {
    let records = match lookup.mx(domain).await {
        Ok(records) => records,
        // Then the domain is its own mail exchanger (RFC 5321 §5.1).
        Err(LookupError::NoRecords) => {
            vec![MxRecord { preference: 0, exchange: Some(HostName::from(domain)) }]
        }
        Err(LookupError::NoDomain) => return Lead::Nowhere,
        Err(LookupError::Temporary(cause)) => return Lead::Unknown(cause.to_string()),
    };
    let hosts = records.into_iter().filter_map(|record| record.exchange).take(EXCHANGES_MAX);
    let exchanges = hosts.map(async |host| {
        let addresses = lookup.addresses(&host).await;
        (host, addresses)
    });
    judge_exchanges(&join_all(exchanges).await, own)
}

fn judge_exchanges(exchanges: &[Exchange], own: (Option<&HostName>, &[IpAddr])) -> Lead {
    let (own_name, own_addresses) = own;
    let is_ours = |(host, addresses): &Exchange| {
        let mut addresses = addresses.iter().flatten();
        Some(host) == own_name || addresses.any(|address| own_addresses.contains(address))
    };
    if exchanges.is_empty() {
        return Lead::NullMx;
    }
    if exchanges.iter().any(is_ours) {
        return Lead::Here;
    }
    let is_absent = |(_, addresses): &Exchange| {
        matches!(addresses, Err(LookupError::NoDomain | LookupError::NoRecords))
    };
    if exchanges.iter().all(is_absent) {
        return Lead::Nowhere;
    }
    // One that is not known may be ours.
    let unknown = exchanges.iter().find_map(|(host, addresses)| match addresses {
        Err(LookupError::Temporary(cause)) => Some(format!("{host}: {cause}")),
        Ok(_) | Err(LookupError::NoDomain | LookupError::NoRecords) => None,
    });
    if let Some(cause) = unknown {
        return Lead::Unknown(cause);
    }
    Lead::Elsewhere(exchanges.iter().map(|(host, _)| host.to_string()).collect())
}

/// A line for each domain that does not lead here, and one for those that do.
fn judge_domains(hostname: &str, leads: &[(Domain, Lead)], left: usize) -> Vec<Finding> {
    let add = |domain: &Domain| format!("add the record `{domain}. MX 10 {hostname}.`");
    let here: Vec<&Domain> =
        leads.iter().filter(|(_, lead)| *lead == Lead::Here).map(|(domain, _)| domain).collect();
    let mut findings = Vec::new();
    if !here.is_empty() {
        let (count, names) = (here.len(), named(&here));
        findings.push(What::Dns.ok(format!("mail for {count} domains leads here: {names}")));
    }
    findings.extend(leads.iter().filter_map(|(domain, lead)| match lead {
        Lead::Here => None,
        Lead::Elsewhere(hosts) => Some(What::Dns.warning(
            format!("mail for {domain} goes to {}, not to {hostname}", hosts.join(", ")),
            format!("{}, unless those pass it on to here", add(domain)),
        )),
        Lead::NullMx => Some(What::Dns.warning(
            format!("{domain} says that it takes no mail (null MX, RFC 7505)"),
            format!("replace that record: {}", add(domain)),
        )),
        Lead::Nowhere => Some(What::Dns.warning(
            format!("mail for {domain} goes nowhere: it has no mail exchanger with an address"),
            add(domain),
        )),
        Lead::Unknown(cause) => Some(What::Dns.warning(
            format!("where mail for {domain} goes is not known: {cause}"),
            "try again, and ask whoever serves that zone",
        )),
    }));
    if left > 0 {
        let seconds = DOMAINS_LIMIT.as_secs();
        let detail = format!("{left} domains were not looked up within {seconds} s");
        findings.push(What::Dns.warning(detail, "try again: answers may be quicker by then"));
    }
    findings
}

/// The first few, and how many there are besides.
fn named(domains: &[&Domain]) -> String {
    let names: Vec<&str> = domains.iter().take(NAMED_MAX).map(|domain| domain.as_str()).collect();
    match domains.len().saturating_sub(NAMED_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    fn exchange(host: &str, addresses: Result<&[&str], LookupError>) -> Exchange {
        let addresses =
            addresses.map(|all| all.iter().map(|address| address.parse().unwrap()).collect());
        (HostName::parse(host).unwrap(), addresses)
    }

    #[test]
    fn mail_exchangers_lead_here_by_name_or_by_address() {
        let own_name = HostName::parse("mx.a.example").unwrap();
        let own_addresses: [IpAddr; 1] = ["192.0.2.1".parse().unwrap()];
        let judge = |exchanges: &[Exchange]| {
            judge_exchanges(exchanges, (Some(&own_name), own_addresses.as_slice()))
        };
        let other = || exchange("mx.b.example", Ok(&["192.0.2.9"]));
        let gone = || exchange("gone.example", Err(LookupError::NoDomain));
        let silent = || exchange("slow.example", Err(LookupError::Temporary("late".into())));
        assert_eq!(judge(&[gone(), exchange("mx.a.example", Ok(&[]))]), Lead::Here);
        assert_eq!(judge(&[other(), exchange("in.a.example", Ok(&["192.0.2.1"]))]), Lead::Here);
        assert_eq!(judge(&[other(), gone()]), elsewhere(&["mx.b.example", "gone.example"]));
        assert_eq!(judge(&[other(), silent()]), Lead::Unknown("slow.example: late".into()));
        assert_eq!(judge(&[gone()]), Lead::Nowhere);
        assert_eq!(judge(&[]), Lead::NullMx);
    }

    fn elsewhere(hosts: &[&str]) -> Lead {
        Lead::Elsewhere(hosts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_line_for_each_domain_that_leads_elsewhere() {
        let domain = |name: &str| Domain::parse(name).unwrap();
        let mut leads: Vec<(Domain, Lead)> =
            (0..7).map(|n| (domain(&format!("d{n}.example")), Lead::Here)).collect();
        leads.push((domain("b.example"), elsewhere(&["mx.b.example"])));
        leads.push((domain("c.example"), Lead::NullMx));
        let findings = judge_domains("mx.a.example", &leads, 2);
        let levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
        let (ok, warning) = (Level::Ok, Level::Warning);
        assert_eq!(levels, [ok, warning, warning, warning]);
        assert!(findings[0].detail.ends_with("d4.example and 2 more"), "{}", findings[0]);
        assert!(findings[1].to_string().contains("`b.example. MX 10 mx.a.example.`"));
        assert!(findings[3].detail.starts_with("2 domains"), "{}", findings[3]);
    }

    #[test]
    fn one_server_that_answers_is_enough_to_go_on() {
        let silent = Err("nothing within 5 s".to_owned());
        assert_eq!(judge_server("192.0.2.53:53", &silent, false).level, Level::Error);
        assert_eq!(judge_server("192.0.2.53:53", &silent, true).level, Level::Warning);
        assert_eq!(judge_server("192.0.2.53:53", &Ok(()), true).level, Level::Ok);
    }
}
