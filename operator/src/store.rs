//! What is declared in the cluster: the resources as they were seen last.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;

use crate::resources::{MailDomain, Mailbox};

/// Something that the API server told of.
#[derive(Debug)]
pub(crate) enum Seen {
    Domain(Scope, Event<MailDomain>),
    Mailbox(Scope, Event<Mailbox>),
    Namespace(Event<PartialObjectMeta<Namespace>>),
}

/// What a watch is about: a namespace, or all.
pub(crate) type Scope = Option<String>;

/// What is watched to see the resources of these namespaces, or of all.
pub(crate) fn scopes(namespaces: &[String]) -> impl Iterator<Item = Scope> {
    let all = namespaces.is_empty().then_some(None);
    all.into_iter().chain(namespaces.iter().cloned().map(Some))
}

/// All of it, by namespaces.
pub(crate) struct Store {
    pub(crate) domains: Shelf<MailDomain>,
    pub(crate) mailboxes: Shelf<Mailbox>,
    labels: Labels,
}

impl Store {
    /// Of these namespaces, or of all. Labels of namespaces can be seen with all only.
    pub(crate) fn new(namespaces: &[String]) -> Self {
        let scopes: HashSet<Scope> = scopes(namespaces).collect();
        Self {
            domains: Shelf::new(scopes.clone()),
            mailboxes: Shelf::new(scopes),
            labels: Labels { is_whole: !namespaces.is_empty(), ..Labels::default() },
        }
    }

    /// Takes what was told; gives the namespaces where something is another now.
    pub(crate) fn take(&mut self, seen: Seen) -> BTreeSet<String> {
        match seen {
            Seen::Domain(scope, event) => self.domains.take(&scope, event),
            Seen::Mailbox(scope, event) => self.mailboxes.take(&scope, event),
            Seen::Namespace(event) => self.labels.take(event),
        }
    }

    /// Whether everything was seen: before, what is absent may exist.
    pub(crate) fn is_whole(&self) -> bool {
        self.domains.is_whole() && self.mailboxes.is_whole() && self.labels.is_whole
    }

    pub(crate) fn labels_of(&self, namespace: &str) -> BTreeMap<String, String> {
        self.labels.by_namespace.get(namespace).cloned().unwrap_or_default()
    }
}

/// Resources of a kind.
pub(crate) struct Shelf<K> {
    by_namespace: BTreeMap<String, BTreeMap<String, K>>,
    /// The watches that have not told everything yet.
    waiting: HashSet<Scope>,
    /// What a watch that begins again has told so far.
    listed: HashMap<Scope, HashSet<(String, String)>>,
}

/// What the operator acts on, of a resource.
pub(crate) trait Acted: ResourceExt + Clone {
    fn is_same(&self, other: &Self) -> bool {
        self.uid() == other.uid()
            && self.meta().generation == other.meta().generation
            && self.meta().deletion_timestamp == other.meta().deletion_timestamp
    }
}

impl Acted for MailDomain {}
impl Acted for Mailbox {}

impl<K: Acted> Shelf<K> {
    fn new(waiting: HashSet<Scope>) -> Self {
        Self { by_namespace: BTreeMap::new(), waiting, listed: HashMap::new() }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those of a namespace, by their names.
    pub(crate) fn of(&self, namespace: &str) -> impl Iterator<Item = &K> {
        self.by_namespace.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &K> {
        self.by_namespace.values().flat_map(BTreeMap::values)
    }

    /// Puts another version in place, when it says the same: the watch tells what is new.
    pub(crate) fn update(&mut self, newer: K) {
        let named = self.by_namespace.get_mut(&newer.namespace().unwrap_or_default());
        let place = named.and_then(|named| named.get_mut(&newer.name_any()));
        if let Some(place) = place.filter(|place| place.is_same(&newer)) {
            *place = newer;
        }
    }

    fn take(&mut self, scope: &Scope, event: Event<K>) -> BTreeSet<String> {
        match event {
            Event::Init => {
                self.listed.insert(scope.clone(), HashSet::new());
                BTreeSet::new()
            }
            Event::InitApply(seen) => {
                if let Some(listed) = self.listed.get_mut(scope) {
                    listed.insert((seen.namespace().unwrap_or_default(), seen.name_any()));
                }
                self.put(seen).into_iter().collect()
            }
            Event::InitDone => {
                self.waiting.remove(scope);
                let listed = self.listed.remove(scope).unwrap_or_default();
                self.drop_all_but(scope, &listed)
            }
            Event::Apply(seen) => self.put(seen).into_iter().collect(),
            Event::Delete(gone) => {
                let namespace = gone.namespace().unwrap_or_default();
                if let Some(named) = self.by_namespace.get_mut(&namespace) {
                    named.remove(&gone.name_any());
                }
                BTreeSet::from([namespace])
            }
        }
    }

    /// Gives the namespace unless nothing has changed that is acted on.
    fn put(&mut self, seen: K) -> Option<String> {
        let namespace = seen.namespace().unwrap_or_default();
        let named = self.by_namespace.entry(namespace.clone()).or_default();
        let is_same = named.get(&seen.name_any()).is_some_and(|known| known.is_same(&seen));
        named.insert(seen.name_any(), seen);
        (!is_same).then_some(namespace)
    }

    fn drop_all_but(
        &mut self,
        scope: &Scope,
        listed: &HashSet<(String, String)>,
    ) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for (namespace, named) in &mut self.by_namespace {
            if scope.as_ref().is_some_and(|scope| scope != namespace) {
                continue;
            }
            let before = named.len();
            named.retain(|name, _| listed.contains(&(namespace.clone(), name.clone())));
            if named.len() != before {
                changed.insert(namespace.clone());
            }
        }
        changed
    }
}

/// The labels of namespaces.
#[derive(Default)]
struct Labels {
    by_namespace: HashMap<String, BTreeMap<String, String>>,
    is_whole: bool,
}

impl Labels {
    fn take(&mut self, event: Event<PartialObjectMeta<Namespace>>) -> BTreeSet<String> {
        match event {
            Event::Init => BTreeSet::new(),
            Event::InitDone => {
                self.is_whole = true;
                BTreeSet::new()
            }
            Event::InitApply(seen) | Event::Apply(seen) => {
                let (name, labels) = (seen.name_any(), seen.labels().clone());
                let before = self.by_namespace.insert(name.clone(), labels);
                let is_same = before.as_ref() == self.by_namespace.get(&name);
                if is_same { BTreeSet::new() } else { BTreeSet::from([name]) }
            }
            // Its resources go by themselves, each told of.
            Event::Delete(gone) => {
                self.by_namespace.remove(&gone.name_any());
                BTreeSet::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(namespace: &str, name: &str, generation: i64) -> Mailbox {
        let text = format!(
            r#"{{"apiVersion": "postrider.dev/v1alpha1", "kind": "Mailbox", "metadata":
                {{"name": "{name}", "namespace": "{namespace}", "generation": {generation}}},
                "spec": {{"address": "{name}@a.example"}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn names(shelf: &Shelf<Mailbox>) -> Vec<String> {
        shelf.all().map(|it| format!("{}/{}", it.namespace().unwrap(), it.name_any())).collect()
    }

    #[test]
    fn a_watch_that_begins_again_forgets_what_is_gone() {
        let mut shelf = Shelf::new(HashSet::from([None]));
        let all = None;
        let list = |shelf: &mut Shelf<Mailbox>, listed: &[Mailbox]| {
            shelf.take(&all, Event::Init);
            for mailbox in listed {
                shelf.take(&all, Event::InitApply(mailbox.clone()));
            }
            shelf.take(&all, Event::InitDone)
        };
        assert!(!shelf.is_whole());
        let (a, b) = (mailbox("x", "a", 1), mailbox("y", "b", 1));
        list(&mut shelf, &[a.clone(), b]);
        assert!(shelf.is_whole());
        assert_eq!(names(&shelf), ["x/a", "y/b"]);
        assert_eq!(list(&mut shelf, &[a]), BTreeSet::from(["y".to_owned()]));
        assert_eq!(names(&shelf), ["x/a"]);
    }

    #[test]
    fn our_own_word_changes_nothing() {
        let mut shelf = Shelf::new(HashSet::new());
        let applied =
            |shelf: &mut Shelf<Mailbox>, mailbox| shelf.take(&None, Event::Apply(mailbox));
        assert_eq!(applied(&mut shelf, mailbox("x", "a", 1)).len(), 1);
        let mut same = mailbox("x", "a", 1);
        same.status = Some(crate::resources::Status::default());
        assert_eq!(applied(&mut shelf, same.clone()).len(), 0, "a status");
        // What was seen in the answer to our own word is news all the same.
        shelf.update(mailbox("x", "a", 2));
        assert_eq!(applied(&mut shelf, mailbox("x", "a", 2)).len(), 1, "a spec");
        let gone = shelf.take(&None, Event::Delete(same));
        assert_eq!(gone.len(), 1);
        assert_eq!(names(&shelf).len(), 0);
    }
}
