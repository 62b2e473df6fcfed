//! The addresses that connections come from, each with its name, and whose mail comes from which.

use std::net::{IpAddr, SocketAddr};

use mail_types::{Envelope, Host, ReversePath};
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// More would share too little mail to get a reputation of their own.
const SOURCES_MAX: usize = 64;

/// An address of this machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceConfig {
    pub address: IpAddr,
    /// What is said in EHLO from there: its PTR record should say the same.
    pub name: String,
}

/// The same, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) address: IpAddr,
    pub(crate) name: Host,
}

/// All of them; none means that the system chooses the address, and our name is said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

impl Sources {
    pub(crate) fn new(configs: &[SourceConfig]) -> Result<Self, ConfigError> {
        let mut sources: Vec<Source> = Vec::with_capacity(configs.len());
        for (index, SourceConfig { address, name }) in configs.iter().enumerate() {
            let wrong = |field, problem: String| ConfigError::Source { index, field, problem };
            let name = Host::parse(name).map_err(|error| wrong("name", error.to_string()))?;
            if address.is_unspecified() || address.is_multicast() {
                return Err(wrong("address", format!("{address} is none to connect from")));
            }
            if sources.iter().any(|other| other.address == *address) {
                return Err(wrong("address", format!("{address} is there twice")));
            }
            if index >= SOURCES_MAX {
                return Err(wrong("address", format!("there are more than {SOURCES_MAX}")));
            }
            sources.push(Source { address: *address, name });
        }
        Ok(Self(sources))
    }

    /// What is said in EHLO from them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Host> {
        self.0.iter().map(|source| &source.name)
    }

    /// Whether all are addresses of this machine.
    pub(crate) fn check_here(&self) -> Result<(), ConfigError> {
        for (index, source) in self.0.iter().enumerate() {
            let bound = std::net::TcpListener::bind(SocketAddr::new(source.address, 0));
            bound.map_err(|cause| ConfigError::SourceElsewhere { index, source: cause })?;
        }
        Ok(())
    }

    /// Where a sender's mail to this peer comes from: always from the same address, of the peer's
    /// family. Another source takes over its share of senders and moves no others (rendezvous
    /// hashing).
    pub(crate) fn pick(&self, sender: &str, peer: IpAddr) -> Option<&Source> {
        let is_alike = |source: &&Source| source.address.is_ipv4() == peer.is_ipv4();
        self.0.iter().filter(is_alike).max_by_key(|source| weight(sender, source.address))
    }
}

/// By whom a source is chosen: the domain of the reverse-path, or the tenant of what has none.
pub(crate) fn sender(envelope: &Envelope) -> String {
    match &envelope.reverse_path {
        ReversePath::Mailbox(mailbox) => mailbox.host().to_string(),
        ReversePath::Null => envelope.tenant.as_str().to_owned(),
    }
}

/// FNV-1a with a last mixing: the same in every process and version.
fn weight(sender: &str, address: IpAddr) -> u64 {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let all = octets.into_iter().chain(sender.bytes());
    let hash = all.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn config(address: &str, name: &str) -> SourceConfig {
        SourceConfig { address: address.parse().unwrap(), name: name.into() }
    }

    fn sources(addresses: &[&str]) -> Sources {
        let configs: Vec<_> = addresses.iter().map(|it| config(it, "out.example")).collect();
        Sources::new(&configs).unwrap()
    }

    fn picked(sources: &Sources, sender: &str, peer: &str) -> Option<IpAddr> {
        sources.pick(sender, peer.parse().unwrap()).map(|source| source.address)
    }

    #[test]
    fn the_family_is_the_peers() {
        let both = sources(&["192.0.2.1", "2001:db8::1"]);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(picked(&both, "a.example", "198.51.100.1"), "192.0.2.1".parse().ok());
        assert_eq!(picked(&both, "a.example", "2001:db8:1::1"), Some(v6));
        assert_eq!(picked(&sources(&["192.0.2.1"]), "a.example", "2001:db8:1::1"), None);
        assert_eq!(picked(&Sources::default(), "a.example", "198.51.100.1"), None);
    }

    #[test]
    fn senders_are_spread_and_stay_where_they_are() {
        let three = sources(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let four = sources(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        let (mut shares, mut moved) = (HashMap::new(), 0);
        for n in 0..3000 {
            let sender = format!("d{n}.example");
            let before = picked(&three, &sender, "198.51.100.1").unwrap();
            assert_eq!(picked(&three, &sender, "203.0.113.9"), Some(before));
            *shares.entry(before).or_insert(0) += 1;
            let after = picked(&four, &sender, "198.51.100.1").unwrap();
            assert!(after == before || after.to_string() == "192.0.2.4", "{sender} moved");
            moved += usize::from(after != before);
        }
        assert!(shares.len() == 3 && shares.values().all(|share| *share > 800), "{shares:?}");
        assert!((600..900).contains(&moved), "{moved}");
    }

    /// Another version of this program sends from the same addresses.
    #[test]
    fn the_choice_is_what_it_was() {
        let three = sources(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let picks = ["a.example", "b.example", "c.example", "d.example"]
            .map(|sender| picked(&three, sender, "198.51.100.1").unwrap().to_string());
        assert_eq!(picks, ["192.0.2.2", "192.0.2.2", "192.0.2.2", "192.0.2.3"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (configs, message) in [
            (vec![config("0.0.0.0", "a.example")], "sources[0].address: 0.0.0.0 is none"),
            (vec![config("224.0.0.1", "a.example")], "sources[0].address: 224.0.0.1 is none"),
            (vec![config("192.0.2.1", "a b")], "sources[0].name: "),
            (
                vec![config("192.0.2.1", "a.example"), config("192.0.2.1", "b.example")],
                "sources[1].address: 192.0.2.1 is there twice",
            ),
        ] {
            let error = Sources::new(&configs).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let elsewhere = sources(&["127.0.0.1", "192.0.2.1"]).check_here().unwrap_err();
        assert!(elsewhere.to_string().starts_with("sources[1].address: "), "{elsewhere}");
    }
}
