//! What of one namespace's resources comes into force.
//!
//! Resources are accepted one by one, and judged together. One that does not fit is refused, and
//! what it said when it was accepted last stays in force: a mistake takes no mail away. Whoever
//! comes new, or says something new, gives way to what is in force already.

use std::collections::BTreeMap;

use domains::spec::MailboxSpec;
use domains::{Declared, Holding, Problem, Resource, Table};

/// A kind and a name, as `Mailbox/alice`: unique in a namespace.
pub(crate) type Key = String;

/// A resource that asks to be in force.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) key: Key,
    /// When it was made, as the API server writes it.
    pub(crate) created: String,
    pub(crate) now: Resource,
    /// As it was accepted last.
    pub(crate) before: Option<Resource>,
}

/// What became of a resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is in force; what of it leads nowhere is told.
    Accepted { astray: Vec<Problem> },
    /// It is not; what it said before is, if `is_before_kept`.
    Refused { problem: Problem, is_before_kept: bool },
}

/// What is in force of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub(crate) table: Table,
    pub(crate) verdicts: BTreeMap<Key, Verdict>,
}

/// How a candidate stands.
struct Standing {
    candidate: Candidate,
    choice: Choice,
    refused: Option<Problem>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Now,
    Before,
    /// Its mailbox alone, without what has to do with others.
    Bare,
    Nothing,
}

impl Standing {
    fn new(candidate: Candidate) -> Self {
        Self { candidate, choice: Choice::Now, refused: None }
    }

    fn says_something_new(&self) -> bool {
        self.candidate.before.as_ref() != Some(&self.candidate.now)
    }

    fn is_newcomer(&self) -> bool {
        self.choice == Choice::Now && self.says_something_new()
    }

    fn declared(&self) -> Option<Declared> {
        let resource = match self.choice {
            Choice::Now => Some(self.candidate.now.clone()),
            Choice::Before => self.candidate.before.clone(),
            Choice::Bare => self.candidate.before.as_ref().and_then(bare),
            Choice::Nothing => None,
        };
        Some(Declared::new(self.candidate.key.clone(), resource?))
    }

    /// It gives way, to what it was before if that may be.
    fn give_way(&mut self, problem: &Problem) {
        let before = self.candidate.before.as_ref();
        self.choice = match self.choice {
            Choice::Now if self.is_newcomer() && before.is_some() => Choice::Before,
            Choice::Now | Choice::Before if before.and_then(bare).is_some() => Choice::Bare,
            Choice::Now | Choice::Before | Choice::Bare | Choice::Nothing => Choice::Nothing,
        };
        self.refused.get_or_insert_with(|| problem.clone());
    }

    fn verdict(self, astray: &mut BTreeMap<Key, Vec<Problem>>) -> (Key, Verdict) {
        let verdict = match self.refused {
            Some(problem) => {
                let is_before_kept = matches!(self.choice, Choice::Before | Choice::Bare);
                Verdict::Refused { problem, is_before_kept }
            }
            None => {
                Verdict::Accepted { astray: astray.remove(&self.candidate.key).unwrap_or_default() }
            }
        };
        (self.candidate.key, verdict)
    }
}

/// A mailbox without its other names: it takes mail whatever becomes of these.
fn bare(resource: &Resource) -> Option<Resource> {
    let Resource::Mailbox { metadata, spec } = resource else { return None };
    let spec = MailboxSpec { aliases: Vec::new(), identities: Vec::new(), ..spec.clone() };
    Some(Resource::Mailbox { metadata: metadata.clone(), spec })
}

/// Whether a problem may be one with this resource, as it names an address of it.
fn is_named(resource: &Resource, problem: &Problem) -> bool {
    let Resource::Mailbox { spec, .. } = resource else { return false };
    let mut addresses = spec.aliases.iter().chain([&spec.address]);
    addresses.any(|address| problem.message.contains(address.as_str()))
}

/// Judges all resources of a namespace.
pub(crate) fn admit(candidates: Vec<Candidate>) -> Admission {
    let mut standings: Vec<Standing> = candidates.into_iter().map(Standing::new).collect();
    // Of two that cannot both be, the later one is blamed: what is in force comes first.
    standings.sort_by(|one, other| {
        let order = |it: &Standing| (it.says_something_new(), it.candidate.created.clone());
        order(one).cmp(&order(other)).then_with(|| one.candidate.key.cmp(&other.candidate.key))
    });
    loop {
        let declared: Vec<Declared> = standings.iter().filter_map(Standing::declared).collect();
        match Table::of_tenant(&declared) {
            Ok(Holding { table, astray }) => {
                let mut by_key: BTreeMap<Key, Vec<Problem>> = BTreeMap::new();
                for problem in astray {
                    by_key.entry(problem.at.file.clone()).or_default().push(problem);
                }
                let verdicts = standings.into_iter().map(|it| it.verdict(&mut by_key)).collect();
                return Admission { table, verdicts };
            }
            Err(problems) => give_way(&mut standings, &problems),
        }
    }
}

/// At least one of those who are in force gives way.
fn give_way(standings: &mut [Standing], problems: &[Problem]) {
    let blamed: BTreeMap<&str, &Problem> =
        problems.iter().rev().map(|problem| (problem.at.file.as_str(), problem)).collect();
    let blamed_of = |standing: &Standing| blamed.get(standing.candidate.key.as_str()).copied();
    let mut newcomers: Vec<&mut Standing> =
        standings.iter_mut().filter(|standing| standing.is_newcomer()).collect();
    if newcomers.iter().any(|standing| blamed_of(standing).is_some()) {
        for standing in newcomers {
            if let Some(problem) = blamed_of(standing) {
                standing.give_way(problem);
            }
        }
    } else if let (false, Some(problem)) = (newcomers.is_empty(), problems.first()) {
        // One of them makes wrong what was in force before it came.
        let guilty = newcomers.iter().rposition(|it| is_named(&it.candidate.now, problem));
        newcomers.swap_remove(guilty.unwrap_or(newcomers.len() - 1)).give_way(problem);
    } else {
        for standing in standings.iter_mut().filter(|it| it.choice != Choice::Nothing) {
            if let Some(problem) = blamed_of(standing) {
                standing.give_way(problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domains::{Resolution, yaml};
    use mail_types::{ForwardPath, Mailbox};

    use super::*;

    fn resource(text: &str) -> Resource {
        let text = format!("apiVersion: postrider.dev/v1alpha1\n{text}");
        yaml::parse("test", &text).unwrap().remove(0).resource().clone()
    }

    fn domain(name: &str, inbound: &str) -> Resource {
        resource(&format!(
            "kind: MailDomain\nmetadata: {{name: {name}}}\nspec: {{domain: {name}.example, \
             inbound: {inbound}}}"
        ))
    }

    const POSTMASTER: &str = "{aliases: [{match: postmaster, to: [o@elsewhere.example]}]}";

    fn mailbox(name: &str, more: &str) -> Resource {
        resource(&format!(
            "kind: Mailbox\nmetadata: {{name: {name}}}\nspec: {{address: {name}@a.example{more}}}"
        ))
    }

    fn key(resource: &Resource) -> Key {
        match resource {
            Resource::MailDomain { metadata, .. } => format!("MailDomain/{}", metadata.name),
            Resource::Mailbox { metadata, .. } => format!("Mailbox/{}", metadata.name),
        }
    }

    fn new(now: Resource) -> Candidate {
        let (key, created) = (key(&now), "2026-02-01T00:00:00Z".to_owned());
        Candidate { key, created, now, before: None }
    }

    fn settled(now: Resource) -> Candidate {
        let before = Some(now.clone());
        Candidate { created: "2026-01-01T00:00:00Z".to_owned(), before, ..new(now) }
    }

    fn changed(before: Resource, now: Resource) -> Candidate {
        Candidate { before: Some(before), ..settled(now) }
    }

    fn takes(admission: &Admission, address: &str) -> bool {
        let path = ForwardPath::Mailbox(Mailbox::parse(address).unwrap());
        matches!(admission.table.resolve(&path), Resolution::Local(_))
    }

    fn refusal(admission: &Admission, key: &str) -> (String, bool) {
        match &admission.verdicts[key] {
            Verdict::Refused { problem, is_before_kept } => {
                (problem.message.clone(), *is_before_kept)
            }
            accepted @ Verdict::Accepted { .. } => panic!("{key}: {accepted:?}"),
        }
    }

    #[test]
    fn one_mistake_leaves_the_others_alone() {
        let admission = admit(vec![
            new(domain("a", POSTMASTER)),
            new(mailbox("alice", "")),
            new(mailbox("bob", ", aliases: [x@other.example]")),
        ]);
        assert!(takes(&admission, "alice@a.example") && !takes(&admission, "bob@a.example"));
        let (message, is_before_kept) = refusal(&admission, "Mailbox/bob");
        assert!(message.contains("other.example") && !is_before_kept, "{message}");
    }

    #[test]
    fn a_bad_change_keeps_what_was() {
        let (good, bad) = (mailbox("bob", ""), mailbox("bob", ", aliases: [x@other.example]"));
        let admission = admit(vec![settled(domain("a", POSTMASTER)), changed(good, bad)]);
        assert!(takes(&admission, "bob@a.example"));
        assert!(refusal(&admission, "Mailbox/bob").1);
    }

    #[test]
    fn whoever_comes_new_gives_way() {
        let with_info = "{aliases: [{match: postmaster, to: [o@elsewhere.example]}, {match: info, \
                         to: [o@elsewhere.example]}]}";
        // The compiler blames the alias, which was there before.
        let admission = admit(vec![settled(domain("a", with_info)), new(mailbox("info", ""))]);
        assert!(takes(&admission, "info@a.example"));
        let (message, _) = refusal(&admission, "Mailbox/info");
        assert!(message.contains("declared twice"), "{message}");
        assert_eq!(admission.verdicts["MailDomain/a"], Verdict::Accepted { astray: Vec::new() });
    }

    #[test]
    fn the_one_that_comes_between_gives_way_and_no_other() {
        let with_info = "{aliases: [{match: postmaster, to: [o@elsewhere.example]}, {match: info, \
                         to: [o@elsewhere.example]}]}";
        let admission = admit(vec![
            settled(domain("a", with_info)),
            new(mailbox("info", "")),
            new(mailbox("zoe", "")),
        ]);
        assert!(takes(&admission, "zoe@a.example"));
        assert!(refusal(&admission, "Mailbox/info").0.contains("info@a.example"));
    }

    #[test]
    fn a_mailbox_outlives_the_domain_of_its_other_names() {
        let admission = admit(vec![
            settled(domain("a", POSTMASTER)),
            settled(mailbox("bob", ", aliases: [bob@gone.example]")),
        ]);
        assert!(takes(&admission, "bob@a.example"));
        assert!(refusal(&admission, "Mailbox/bob").1);
    }

    #[test]
    fn what_leads_nowhere_is_told_and_taken() {
        let to_carol = "{aliases: [{match: postmaster, to: [carol@a.example]}]}";
        let admission = admit(vec![settled(domain("a", to_carol)), settled(mailbox("alice", ""))]);
        assert!(takes(&admission, "alice@a.example"));
        let Verdict::Accepted { astray } = &admission.verdicts["MailDomain/a"] else {
            panic!("it is refused")
        };
        assert!(astray.iter().any(|problem| problem.message.contains("carol@a.example")));
    }

    #[test]
    fn mailboxes_without_their_domain_are_all_told_at_once() {
        let names = ["alice", "bob", "carol"];
        let admission = admit(names.iter().map(|name| new(mailbox(name, ""))).collect());
        for name in names {
            let (message, _) = refusal(&admission, &format!("Mailbox/{name}"));
            assert!(message.contains("a.example is not a declared domain"), "{message}");
        }
    }

    #[test]
    fn of_two_with_one_address_the_older_has_it() {
        let twin = |created: &str, name: &str| Candidate {
            created: created.to_owned(),
            ..new(resource(&format!(
                "kind: Mailbox\nmetadata: {{name: {name}}}\nspec: {{address: same@a.example}}"
            )))
        };
        let admission = admit(vec![
            new(domain("a", POSTMASTER)),
            twin("2026-03-02T00:00:00Z", "first-by-name"),
            twin("2026-03-01T00:00:00Z", "older"),
        ]);
        assert!(matches!(admission.verdicts["Mailbox/older"], Verdict::Accepted { .. }));
        assert!(refusal(&admission, "Mailbox/first-by-name").0.contains("declared twice"));
    }
}
