//! Hashes of passwords and certificates, from the Secrets that Mailboxes and MailDomains name.
//!
//! Each Secret is read by its name: no other can be seen. It is read again when the resource
//! changes that names it, and from time to time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use domains::Certificate;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Error};

use crate::resources::{MailDomain, Mailbox, MailboxSpec, SecretRef};

/// The fields of a certificate.
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Secrets that are read at once.
const READS: usize = 32;
/// Absent ones that are looked for at each turn.
const ABSENT: usize = 8;

/// What is known of a Secret.
#[derive(Default)]
struct Known {
    /// The fields that are named; no other is kept.
    keys: HashSet<String>,
    /// `None` when there is no such Secret.
    fields: Option<BTreeMap<String, String>>,
    /// Whether that is known, of all these keys.
    is_read: bool,
}

/// A namespace and a name.
type Place = (String, String);

/// The Secrets of all namespaces, as they were read last.
pub(crate) struct Secrets {
    client: Client,
    known: HashMap<Place, Known>,
    /// Whose turn it is to be read again.
    turns: VecDeque<Place>,
    /// Those that are not there: looked for more often. Each is there once.
    absent: VecDeque<Place>,
    is_absent: HashSet<Place>,
    /// How many were read.
    pub(crate) reads: u64,
}

/// Why a password lets nobody in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Missing {
    Secret(String),
    Key { secret: String, key: String },
    Hash { secret: String, key: String, problem: String },
}

impl Secrets {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            known: HashMap::new(),
            turns: VecDeque::new(),
            absent: VecDeque::new(),
            is_absent: HashSet::new(),
            reads: 0,
        }
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Reads fields of Secrets of a namespace, given as name and field.
    ///
    /// # Errors
    /// The first that could not be asked for: then nothing can be said of it.
    pub(crate) async fn read(
        &mut self,
        namespace: &str,
        fields: impl Iterator<Item = (String, String)>,
        extent: Extent,
    ) -> kube::Result<()> {
        let mut named: HashMap<Place, HashSet<String>> = HashMap::new();
        for (name, key) in fields {
            named.entry((namespace.to_owned(), name)).or_default().insert(key);
        }
        let is_known = |place: &Place, keys: &HashSet<String>| {
            self.known.get(place).is_some_and(|known| known.is_read && known.keys.is_superset(keys))
        };
        if extent == Extent::Unknown {
            named.retain(|place, keys| !is_known(place, keys));
        }
        let mut places = Vec::new();
        for (place, keys) in named {
            if !self.known.contains_key(&place) {
                self.turns.push_back(place.clone());
            }
            let known = self.known.entry(place.clone()).or_default();
            known.is_read &= known.keys.is_superset(&keys);
            known.keys.extend(keys);
            places.push(place);
        }
        match self.read_again(places).await.1 {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Reads the next so many again; gives the namespaces where one is another now, and the first
    /// error.
    pub(crate) async fn take_turns(&mut self, count: usize) -> (BTreeSet<String>, Option<Error>) {
        let count = count.min(self.turns.len());
        let mut places: Vec<Place> = self.turns.drain(..count).collect();
        self.turns.extend(places.iter().filter(|it| self.known.contains_key(*it)).cloned());
        let absent = self.absent.len().min(ABSENT);
        places.extend(self.absent.drain(..absent));
        self.read_again(places).await
    }

    async fn read_again(&mut self, places: Vec<Place>) -> (BTreeSet<String>, Option<Error>) {
        let client = self.client.clone();
        let reads = places.into_iter().map(|place| {
            let api: Api<Secret> = Api::namespaced(client.clone(), &place.0);
            async move { (get(&api, &place.1).await, place) }
        });
        let mut reads = std::pin::pin!(futures::stream::iter(reads).buffer_unordered(READS));
        let (mut changed, mut failed) = (BTreeSet::new(), None);
        while let Some((found, place)) = reads.next().await {
            self.reads += 1;
            self.is_absent.remove(&place);
            let Some(known) = self.known.get_mut(&place) else { continue };
            let fields = match found {
                Ok(found) => found.map(|secret| fields_of(secret, &known.keys)),
                Err(error) => {
                    failed.get_or_insert(error);
                    continue;
                }
            };
            if fields.is_none() && self.is_absent.insert(place.clone()) {
                self.absent.push_back(place.clone());
            }
            if !known.is_read || known.fields != fields {
                (known.is_read, known.fields) = (true, fields);
                changed.insert(place.0);
            }
        }
        (changed, failed)
    }

    /// Forgets those of a namespace that has no mailbox any more.
    pub(crate) fn forget(&mut self, namespace: &str) {
        self.known.retain(|(known, _), _| known != namespace);
        self.turns.retain(|(known, _)| known != namespace);
        self.absent.retain(|(known, _)| known != namespace);
        self.is_absent.retain(|(known, _)| known != namespace);
    }

    /// The hash that a field holds, if it can be one.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn hash(&self, namespace: &str, at: &SecretRef) -> Result<String, Missing> {
        let hash = self.field(namespace, &at.name, &at.key)?.clone();
        match domains::password::check(&hash) {
            Ok(()) => Ok(hash),
            Err(problem) => {
                Err(Missing::Hash { secret: at.name.clone(), key: at.key.clone(), problem })
            }
        }
    }

    fn field(&self, namespace: &str, name: &str, key: &str) -> Result<&String, Missing> {
        let known = self.known.get(&(namespace.to_owned(), name.to_owned()));
        let fields = known.and_then(|known| known.fields.as_ref());
        let fields = fields.ok_or_else(|| Missing::Secret(name.to_owned()))?;
        let field = fields.get(key).filter(|text| !text.is_empty());
        field.ok_or_else(|| Missing::Key { secret: name.to_owned(), key: key.to_owned() })
    }

    /// The certificate and the key that a Secret holds; whether they are any is not looked at.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn certificate(&self, namespace: &str, name: &str) -> Result<Certificate, Missing> {
        let field = |key| self.field(namespace, name, key).cloned();
        Ok(Certificate { chain: field(CHAIN)?, key: field(KEY)? })
    }

    /// Why passwords of a mailbox let nobody in.
    pub(crate) fn missing(&self, namespace: &str, mailbox: &Mailbox) -> Vec<Missing> {
        let passwords = mailbox.spec.passwords.iter();
        passwords.filter_map(|it| self.hash(namespace, &it.secret_ref).err()).collect()
    }
}

/// A Secret, if there is one that we may read.
async fn get(api: &Api<Secret>, name: &str) -> kube::Result<Option<Secret>> {
    // It becomes part of a path: what is no name is asked of nobody.
    if !is_name(name) {
        return Ok(None);
    }
    match api.get_opt(name).await {
        Err(Error::Api(error)) if error.code == 403 => Ok(None),
        found => found,
    }
}

/// Whether it can be the name of a Secret (RFC 1123 §2.1).
fn is_name(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_allowed);
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Which Secrets are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    All,
    /// Those that were not read before.
    Unknown,
}

fn fields_of(secret: Secret, keys: &HashSet<String>) -> BTreeMap<String, String> {
    let fields = secret.data.unwrap_or_default().into_iter();
    let named = fields.filter(|(key, _)| keys.contains(key));
    named.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).trim().to_owned())).collect()
}

/// The fields that a mailbox needs, as it is and as it was accepted last.
pub(crate) fn of_mailbox(mailbox: &Mailbox) -> Vec<(String, String)> {
    let before = crate::operator::in_force::<MailboxSpec>(mailbox.status.as_ref());
    let before = before.into_iter().flat_map(|spec| spec.passwords);
    let passwords = mailbox.spec.passwords.iter().cloned().chain(before);
    passwords.map(|password| (password.secret_ref.name, password.secret_ref.key)).collect()
}

/// The fields that a domain needs.
pub(crate) fn of_domain(domain: &MailDomain) -> impl Iterator<Item = (String, String)> {
    let tls = domain.spec.tls.iter();
    tls.flat_map(|tls| [CHAIN, KEY].map(|key| (tls.secret_ref.name.clone(), key.to_owned())))
}

impl std::fmt::Display for Missing {
    /// In no case what a Secret holds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "there is no Secret {name} in this namespace"),
            Self::Key { secret, key } => write!(f, "Secret {secret} has no field {key}"),
            Self::Hash { secret, key, problem } => write!(
                f,
                "Secret {secret}, field {key}: {problem}; put what `postrider mailbox \
                 hash-password` prints there"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_asked_of_nobody() {
        for (name, wanted) in [
            ("alice", true),
            ("alice.mail-tls", true),
            ("", false),
            ("my secret", false),
            ("a/b", false),
            ("../../other/secrets/x", false),
            ("Alice", false),
            ("a..b", false),
        ] {
            assert_eq!(is_name(name), wanted, "{name}");
        }
    }
}
