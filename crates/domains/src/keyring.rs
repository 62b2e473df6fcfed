//! The logins of a domain, in little room: there may be a million of them in a process.

use mail_types::Domain;
use senders::Limits;
use serde::{Deserialize, Serialize};

use crate::row::Login;

/// By their names. One octet string has all of them, for an allocation of each text of each login
/// takes three times the room of the texts.
#[derive(Clone, Default)]
pub(crate) struct Keyring {
    octets: Vec<u8>,
    /// Where each begins; in order of their names once it is [closed](Keyring::close).
    starts: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    name: &'a str,
    #[serde(borrow)]
    hashes: Vec<&'a str>,
    #[serde(borrow)]
    password_names: Vec<&'a str>,
    recipients_per_hour: Option<u32>,
    recipients_per_day: Option<u32>,
    /// Besides its own, which its name tells.
    #[serde(borrow)]
    more_addresses: Vec<&'a str>,
    domains: Vec<Domain>,
}

impl Keyring {
    /// Adds the login of a name that has none, whose own address is the first of its addresses.
    /// Nothing is found until the ring is closed again.
    pub(crate) fn add(&mut self, name: &str, login: &Login) {
        fn texts(of: &[String]) -> Vec<&str> {
            of.iter().map(String::as_str).collect()
        }
        let record = Record {
            name,
            hashes: texts(&login.hashes),
            password_names: texts(&login.names),
            recipients_per_hour: login.sending_limits.recipients_per_hour,
            recipients_per_day: login.sending_limits.recipients_per_day,
            more_addresses: texts(login.addresses.get(1..).unwrap_or_default()),
            domains: login.domains.clone(),
        };
        // A domain has no 4 GiB of logins, and writing to memory does not fail.
        let (Ok(start), Ok(octets)) =
            (u32::try_from(self.octets.len()), postcard::to_allocvec(&record))
        else {
            return;
        };
        self.starts.push(start);
        self.octets.extend(octets);
    }

    /// Puts them in order, and gives back room that was kept for more.
    pub(crate) fn close(&mut self) {
        let mut starts = std::mem::take(&mut self.starts);
        starts.sort_by(|a, b| self.name(*a).cmp(&self.name(*b)));
        self.starts = starts;
        self.starts.shrink_to_fit();
        self.octets.shrink_to_fit();
    }

    /// How the owner of a name logs in, whose own address is given.
    pub(crate) fn find(&self, name: &str, own: String) -> Option<Login> {
        let at = self.starts.binary_search_by(|start| self.name(*start).cmp(&Some(name))).ok()?;
        Some(self.record(*self.starts.get(at)?)?.login(own))
    }

    /// The first name that is not before `name`, or else the first of all.
    pub(crate) fn at_or_after(&self, name: &str) -> Option<&str> {
        let at = self.starts.partition_point(|start| self.name(*start) < Some(name));
        self.starts.get(at).or(self.starts.first()).and_then(|start| self.name(*start))
    }

    fn name(&self, start: u32) -> Option<&str> {
        postcard::take_from_bytes(self.octets.get(start as usize..)?).ok().map(|(name, _)| name)
    }

    fn record(&self, start: u32) -> Option<Record<'_>> {
        postcard::take_from_bytes(self.octets.get(start as usize..)?).ok().map(|(it, _)| it)
    }
}

impl std::fmt::Debug for Keyring {
    /// Without the hashes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} logins)", self.starts.len())
    }
}

impl Record<'_> {
    fn login(self, own: String) -> Login {
        let texts = |of: Vec<&str>| of.into_iter().map(str::to_owned).collect();
        let more = self.more_addresses.into_iter().map(str::to_owned);
        Login {
            hashes: texts(self.hashes),
            names: texts(self.password_names),
            sending_limits: Limits {
                recipients_per_hour: self.recipients_per_hour,
                recipients_per_day: self.recipients_per_day,
            },
            addresses: [own].into_iter().chain(more).collect(),
            domains: self.domains,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(name: &str) -> Login {
        Login {
            hashes: vec![format!("hash of {name}"), "another".into()],
            names: vec!["phone".into(), "laptop".into()],
            sending_limits: Limits { recipients_per_hour: None, recipients_per_day: Some(7) },
            addresses: vec![format!("{name}@a.example"), "sales@b.example".into()],
            domains: vec![Domain::parse("all.example").unwrap()],
        }
    }

    #[test]
    fn all_of_a_login_is_found_by_its_name() {
        let mut keyring = Keyring::default();
        let names = ["bob", "alice", "zoë", "a b", "carol"];
        for name in names {
            keyring.add(name, &login(name));
        }
        keyring.close();
        for name in names {
            let own = format!("{name}@a.example");
            assert!(keyring.find(name, own) == Some(login(name)), "{name}");
        }
        for name in ["", "alic", "alice2", "zz"] {
            assert!(keyring.find(name, String::new()).is_none(), "{name}");
        }
        assert_eq!(keyring.at_or_after("alic"), Some("alice"));
        assert_eq!(keyring.at_or_after("bob"), Some("bob"));
        assert_eq!(keyring.at_or_after("zoë2"), Some("a b"), "from the beginning again");
        assert_eq!(Keyring::default().at_or_after("x"), None);
        assert!(!format!("{keyring:?}").contains("hash of"));
    }
}
