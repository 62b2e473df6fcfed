//! Hashes of passwords, from the Secrets that Mailboxes name.
//!
//! Each Secret is read by its name: no other can be seen. It is read again when its Mailbox
//! changes, and from time to time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::resources::{Mailbox, SecretRef};

/// Secrets that are read at once.
const READS: usize = 32;
/// Absent ones that are looked for at each turn.
const ABSENT: usize = 8;

/// What is known of a Secret.
#[derive(Default)]
struct Known {
    /// The fields that Mailboxes name; no other is kept.
    keys: HashSet<String>,
    /// `None` when there is no such Secret.
    fields: Option<BTreeMap<String, String>>,
}

/// A namespace and a name.
type Place = (String, String);

/// The Secrets of all namespaces, as they were read last.
pub(crate) struct Secrets {
    client: Client,
    known: HashMap<Place, Known>,
    /// Whose turn it is to be read again.
    turns: VecDeque<Place>,
    /// Those that are not there: looked for more often.
    absent: VecDeque<Place>,
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
            reads: 0,
        }
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Reads those that mailboxes of a namespace name.
    ///
    /// # Errors
    /// The first that could not be asked for: then nothing can be said of it.
    pub(crate) async fn read(
        &mut self,
        namespace: &str,
        mailboxes: impl Iterator<Item = &Mailbox>,
        extent: Extent,
    ) -> kube::Result<()> {
        let mut named: HashMap<Place, HashSet<String>> = HashMap::new();
        for password in mailboxes.flat_map(|mailbox| &mailbox.spec.passwords) {
            let SecretRef { name, key } = password.secret_ref.clone();
            named.entry((namespace.to_owned(), name)).or_default().insert(key);
        }
        let is_known = |place: &Place, keys: &HashSet<String>| {
            self.known.get(place).is_some_and(|known| known.keys.is_superset(keys))
        };
        if extent == Extent::Unknown {
            named.retain(|place, keys| !is_known(place, keys));
        }
        let mut places = Vec::new();
        for (place, keys) in named {
            let known = self.known.entry(place.clone());
            if let std::collections::hash_map::Entry::Vacant(_) = &known {
                self.turns.push_back(place.clone());
            }
            known.or_default().keys.extend(keys);
            places.push(place);
        }
        self.read_again(places).await.map(drop)
    }

    /// Reads the next so many again; gives the namespaces where one is another now.
    pub(crate) async fn take_turns(&mut self, count: usize) -> kube::Result<BTreeSet<String>> {
        let count = count.min(self.turns.len());
        let mut places: Vec<Place> = self.turns.drain(..count).collect();
        self.turns.extend(places.iter().filter(|it| self.known.contains_key(*it)).cloned());
        let absent = self.absent.len().min(ABSENT);
        places.extend(self.absent.drain(..absent));
        self.read_again(places).await
    }

    async fn read_again(&mut self, places: Vec<Place>) -> kube::Result<BTreeSet<String>> {
        let client = self.client.clone();
        let reads = places.into_iter().map(|place| {
            let api: Api<Secret> = Api::namespaced(client.clone(), &place.0);
            async move { (api.get_opt(&place.1).await, place) }
        });
        let mut reads = std::pin::pin!(futures::stream::iter(reads).buffer_unordered(READS));
        let mut changed = BTreeSet::new();
        while let Some((found, place)) = reads.next().await {
            self.reads += 1;
            let Some(known) = self.known.get_mut(&place) else { continue };
            let fields = found?.map(|secret| fields_of(secret, &known.keys));
            if fields.is_none() && !self.absent.contains(&place) {
                self.absent.push_back(place.clone());
            }
            if known.fields != fields {
                known.fields = fields;
                changed.insert(place.0);
            }
        }
        Ok(changed)
    }

    /// Forgets those of a namespace that has no mailbox any more.
    pub(crate) fn forget(&mut self, namespace: &str) {
        self.known.retain(|(known, _), _| known != namespace);
        self.turns.retain(|(known, _)| known != namespace);
        self.absent.retain(|(known, _)| known != namespace);
    }

    /// The hash that a field holds, if it can be one.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn hash(&self, namespace: &str, at: &SecretRef) -> Result<String, Missing> {
        let known = self.known.get(&(namespace.to_owned(), at.name.clone()));
        let fields = known.and_then(|known| known.fields.as_ref());
        let fields = fields.ok_or_else(|| Missing::Secret(at.name.clone()))?;
        let hash = fields.get(&at.key).filter(|hash| !hash.is_empty());
        let missing = || Missing::Key { secret: at.name.clone(), key: at.key.clone() };
        let hash = hash.cloned().ok_or_else(missing)?;
        match domains::password::check(&hash) {
            Ok(()) => Ok(hash),
            Err(problem) => {
                Err(Missing::Hash { secret: at.name.clone(), key: at.key.clone(), problem })
            }
        }
    }

    /// Why passwords of a mailbox let nobody in.
    pub(crate) fn missing(&self, namespace: &str, mailbox: &Mailbox) -> Vec<Missing> {
        let passwords = mailbox.spec.passwords.iter();
        passwords.filter_map(|it| self.hash(namespace, &it.secret_ref).err()).collect()
    }
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

impl std::fmt::Display for Missing {
    /// In no case what a Secret holds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "there is no Secret {name} in this namespace"),
            Self::Key { secret, key } => write!(
                f,
                "Secret {secret} has no field {key}; put what `postrider mailbox hash-password` \
                 prints there"
            ),
            Self::Hash { secret, key, problem } => write!(
                f,
                "Secret {secret}, field {key}: {problem}; put what `postrider mailbox \
                 hash-password` prints there"
            ),
        }
    }
}
