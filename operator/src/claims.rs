//! Who may have which domain.
//!
//! A namespace may have a domain when a rule of the installation allows it. Of several that may,
//! the oldest MailDomain has it: whoever comes later cannot take mail away.

use std::collections::{BTreeMap, HashMap};

use mail_types::Domain;
use serde::Deserialize;

/// The rules; without any, nobody may have a domain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Claims {
    pub(crate) allow: Vec<Allow>,
}

/// Some namespaces may have some domains.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Allow {
    pub(crate) namespace_selector: Selector,
    /// `example.org`, `*.example.org` for all below it, or `*`.
    pub(crate) domains: Vec<String>,
}

/// Namespaces by their labels: all of these.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Selector {
    pub(crate) match_labels: BTreeMap<String, String>,
}

/// The label that every namespace has.
const NAME: &str = "kubernetes.io/metadata.name";

/// A MailDomain that asks for its domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Claim {
    /// When it was made, as the API server writes it.
    pub(crate) created: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) domain: Domain,
}

/// Why somebody does not have the domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Denied {
    NotAllowed,
    /// Another MailDomain has it. Which one is nobody's business but its owner's.
    Conflict {
        is_same_namespace: bool,
    },
}

impl Claims {
    /// Whether a rule depends on labels other than the name.
    pub(crate) fn look_at_labels(&self) -> bool {
        let mut labels =
            self.allow.iter().flat_map(|rule| rule.namespace_selector.match_labels.keys());
        labels.any(|label| label != NAME)
    }

    /// Whether a namespace with these labels may have the domain.
    pub(crate) fn allow(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        domain: &Domain,
    ) -> bool {
        let has = |(key, value): (&String, &String)| match labels.get(key) {
            Some(found) => found == value,
            None => key == NAME && value == namespace,
        };
        self.allow.iter().any(|rule| {
            rule.namespace_selector.match_labels.iter().all(has)
                && rule.domains.iter().any(|pattern| covers(pattern, domain))
        })
    }
}

fn covers(pattern: &str, domain: &Domain) -> bool {
    let Some(above) = pattern.strip_prefix('*') else {
        return Domain::parse(pattern).is_ok_and(|named| named == *domain);
    };
    let Some(above) = above.strip_prefix('.') else { return above.is_empty() };
    let below = |above: Domain| {
        let rest = domain.as_str().strip_suffix(above.as_str());
        rest.is_some_and(|rest| rest.ends_with('.'))
    };
    Domain::parse(above).is_ok_and(below)
}

/// Who does not get what he asks for; `is_allowed` tells whether he may have it at all.
pub(crate) fn denied(
    mut claims: Vec<Claim>,
    is_allowed: impl Fn(&Claim) -> bool,
) -> HashMap<(String, String), Denied> {
    claims.sort();
    let mut owners: HashMap<Domain, String> = HashMap::new();
    let mut denied = HashMap::new();
    for claim in claims {
        let why = match owners.get(&claim.domain) {
            _ if !is_allowed(&claim) => Denied::NotAllowed,
            Some(owner) => Denied::Conflict { is_same_namespace: *owner == claim.namespace },
            None => {
                owners.insert(claim.domain, claim.namespace);
                continue;
            }
        };
        denied.insert((claim.namespace, claim.name), why);
    }
    denied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[test]
    fn rules_are_by_label_and_pattern() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let allow = |match_labels, domains: &[&str]| Allow {
            namespace_selector: Selector { match_labels },
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        };
        let claims = Claims {
            allow: vec![
                allow(labels(&[("team", "a")]), &["a.example", "*.a.example"]),
                allow(labels(&[(NAME, "bees")]), &["Bücher.example"]),
                allow(labels(&[("tier", "gold")]), &["*"]),
            ],
        };
        for (namespace, has, asked, may) in [
            ("x", &[("team", "a")][..], "a.example", true),
            ("x", &[("team", "a")], "sub.A.example", true),
            ("x", &[("team", "a")], "suba.example", false),
            ("x", &[("team", "b")], "a.example", false),
            ("x", &[], "a.example", false),
            ("bees", &[], "xn--bcher-kva.example", true),
            ("wasps", &[], "bücher.example", false),
            ("wasps", &[(NAME, "wasps")], "bücher.example", false),
            ("x", &[("tier", "gold"), ("team", "b")], "any.example", true),
        ] {
            let found = claims.allow(namespace, &labels(has), &domain(asked));
            assert_eq!(found, may, "{namespace} {has:?} {asked}");
        }
        assert!(!Claims::default().allow("x", &labels(&[]), &domain("a.example")));
    }

    #[test]
    fn the_oldest_that_may_has_it() {
        let claim = |created: &str, namespace: &str, name: &str| Claim {
            created: created.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            domain: domain("a.example"),
        };
        let all = vec![
            claim("2026-01-03T00:00:00Z", "late", "d"),
            claim("2026-01-01T00:00:00Z", "thief", "d"),
            claim("2026-01-02T00:00:00Z", "owner", "d"),
            claim("2026-01-02T00:00:01Z", "owner", "again"),
        ];
        let found = denied(all, |claim| claim.namespace != "thief");
        let of = |namespace: &str, name: &str| found.get(&(namespace.into(), name.into()));
        assert_eq!(of("owner", "d"), None);
        assert_eq!(of("thief", "d"), Some(&Denied::NotAllowed));
        assert_eq!(of("late", "d"), Some(&Denied::Conflict { is_same_namespace: false }));
        assert_eq!(of("owner", "again"), Some(&Denied::Conflict { is_same_namespace: true }));
    }
}
