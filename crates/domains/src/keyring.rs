//! The logins of a domain, in little room: there may be a million of them in a process.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use mail_types::Domain;
use senders::Limits;
use serde::{Deserialize, Serialize};

use crate::row::Login;
use crate::{password, scram};

/// Of the parameters of hashes; those of a domain are mostly the same.
const HEADS_MAX: usize = 16;

/// By their names. One octet string has all of them, for an allocation of each text of each login
/// takes three times the room of the texts.
#[derive(Clone, Default)]
pub(crate) struct Keyring {
    octets: Vec<u8>,
    /// Where each begins; in order of their names once it is [closed](Keyring::close).
    starts: Vec<u32>,
    /// What hashes begin with.
    heads: Vec<Box<str>>,
    has_scram: bool,
}

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    name: &'a str,
    #[serde(borrow)]
    hashes: Vec<Hash<'a>>,
    #[serde(borrow)]
    password_names: Vec<&'a str>,
    recipients_per_hour: Option<u32>,
    recipients_per_day: Option<u32>,
    /// Besides its own, which its name tells.
    #[serde(borrow)]
    more_addresses: Vec<&'a str>,
    domains: Vec<Domain>,
}

/// A hash of a password.
#[derive(Serialize, Deserialize)]
enum Hash<'a> {
    Text(&'a str),
    /// A PHC string, which nearly all are: a little more than half as long without its base64 and
    /// what others begin with as well.
    Parts {
        head: u8,
        salt: Vec<u8>,
        end: Vec<u8>,
    },
}

impl Keyring {
    /// Adds the login of a name that has none, whose own address is the first of its addresses.
    /// Nothing is found until the ring is closed again.
    pub(crate) fn add(&mut self, name: &str, login: &Login) {
        fn texts(of: &[String]) -> Vec<&str> {
            of.iter().map(String::as_str).collect()
        }
        let is_scram = |hash: &String| password::scheme(hash) == Some(scram::LABEL);
        self.has_scram |= login.hashes.iter().any(is_scram);
        let record = Record {
            name,
            hashes: login.hashes.iter().map(|hash| self.shorten(hash)).collect(),
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
        Some(self.login(self.record(*self.starts.get(at)?)?, own))
    }

    /// Whether any has keys of SCRAM.
    pub(crate) fn has_scram(&self) -> bool {
        self.has_scram
    }

    /// The first name that is not before `name`, or else the first of all.
    pub(crate) fn at_or_after(&self, name: &str) -> Option<&str> {
        let at = self.starts.partition_point(|start| self.name(*start) < Some(name));
        self.starts.get(at).or(self.starts.first()).and_then(|start| self.name(*start))
    }

    fn shorten<'a>(&mut self, text: &'a str) -> Hash<'a> {
        self.parts(text).unwrap_or(Hash::Text(text))
    }

    fn parts(&mut self, text: &str) -> Option<Hash<'static>> {
        let mut parts = text.rsplitn(3, '$');
        // What is read is written the same: there is one way to write octets without padding.
        let mut octets = || STANDARD_NO_PAD.decode(parts.next()?).ok();
        let (end, salt) = (octets()?, octets()?);
        let head = parts.next()?;
        let known = self.heads.iter().position(|known| **known == *head);
        let at = known.unwrap_or(self.heads.len());
        if at == HEADS_MAX {
            return None;
        }
        if known.is_none() {
            self.heads.push(head.into());
        }
        Some(Hash::Parts { head: u8::try_from(at).ok()?, salt, end })
    }

    fn text(&self, hash: Hash<'_>) -> Option<String> {
        Some(match hash {
            Hash::Text(text) => text.to_owned(),
            Hash::Parts { head, salt, end } => {
                let head = self.heads.get(usize::from(head))?;
                let [salt, end] = [salt, end].map(|octets| STANDARD_NO_PAD.encode(octets));
                format!("{head}${salt}${end}")
            }
        })
    }

    fn login(&self, record: Record<'_>, own: String) -> Login {
        let texts = |of: Vec<&str>| of.into_iter().map(str::to_owned).collect();
        let more = record.more_addresses.into_iter().map(str::to_owned);
        Login {
            hashes: record.hashes.into_iter().filter_map(|hash| self.text(hash)).collect(),
            names: texts(record.password_names),
            sending_limits: Limits {
                recipients_per_hour: record.recipients_per_hour,
                recipients_per_day: record.recipients_per_day,
            },
            addresses: [own].into_iter().chain(more).collect(),
            domains: record.domains,
        }
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

    /// Much that looks like a PHC string, and what does not.
    const HASH: &str = "([$a-c=]{0,4}[$][A-D=]{0,5}[$][A-D+/=]{0,6}|.{0,9})";

    fn with_hashes(hashes: &[String]) -> (Keyring, Login) {
        let login = Login { hashes: hashes.to_vec(), ..login("alice") };
        let mut keyring = Keyring::default();
        keyring.add("alice", &login);
        keyring.close();
        (keyring, login)
    }

    fn kept(hashes: &[String]) -> Vec<String> {
        let (keyring, _) = with_hashes(hashes);
        keyring.find("alice", "alice@a.example".into()).unwrap().hashes
    }

    #[test]
    fn hashes_take_less_than_their_text() {
        let argon2id = "$argon2id$v=19$m=19456,t=2,p=1$cG9zdHJpZGVydGVzdCE$\
                        dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk";
        let hashes = vec![argon2id.to_owned(); 10];
        let (keyring, login) = with_hashes(&hashes);
        let found = keyring.find("alice", "alice@a.example".into());
        assert!(found == Some(login));
        let others = 60;
        let most = argon2id.len() * hashes.len() * 3 / 5 + others;
        assert!(keyring.octets.len() < most, "{} octets", keyring.octets.len());
    }

    proptest::proptest! {
        #[test]
        fn every_hash_is_given_back(
            hashes in proptest::collection::vec(HASH, 0..40)
        ) {
            proptest::prop_assert_eq!(kept(&hashes), hashes);
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
