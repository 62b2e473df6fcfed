//! What a table takes over of the one before is what compiling all files anew makes.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Write;

use domains::{Compiled, Problem, Row, Settings, StorageId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const HEAD: &str = "---\napiVersion: postrider.dev/v1alpha1\nkind:";
const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$cG9zdHJpZGVydGVzdCE$\
                    dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk";

type Files = BTreeMap<String, String>;

/// What is made of files, and which were read more than once.
fn compile(
    files: &Files,
    before: Option<&Compiled>,
) -> (Result<Compiled, Vec<Problem>>, BTreeSet<String>) {
    let (seen, again) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
    let names: Vec<String> = files.keys().cloned().collect();
    let read = |name: &str| -> Result<String, Infallible> {
        if !seen.borrow_mut().insert(name.to_owned()) {
            again.borrow_mut().insert(name.to_owned());
        }
        Ok(files[name].clone())
    };
    let Ok(compiled) = Compiled::of_files(&names, before, &Settings::default(), read);
    (compiled, again.into_inner())
}

/// All that a table says, in an order.
fn said(compiled: &Compiled) -> (BTreeMap<String, String>, Option<String>, bool) {
    let row = |row: Row| (format!("{row:?}"), serde_saphyr::to_string(&row).unwrap());
    let rows = compiled.table.rows().map(row).collect();
    let postmaster = compiled.table.postmaster().map(ToString::to_string);
    (rows, postmaster, compiled.table.offers_scram())
}

/// A resource of a small world, in which many things meet.
#[derive(Clone, Debug)]
enum Resource {
    Domain { n: u8, namespace: u8, alias_of: Option<u8>, alias_to: Option<(u8, u8)> },
    Mailbox { n: u8, domain: u8, namespace: u8, name: u8, more: More },
}

#[derive(Clone, Debug)]
enum More {
    Nothing,
    Password,
    Alias(u8, u8),
    Identity(u8, u8),
    AllOf(u8),
    Storage(u8, u8),
}

impl Resource {
    fn write(&self, text: &mut String) {
        match self {
            Self::Domain { n, namespace, alias_of, alias_to } => {
                write!(
                    text,
                    "{HEAD} MailDomain\nmetadata: {{name: d{n}, namespace: t{namespace}}}\n\
                     spec:\n  domain: d{n}.example\n"
                )
                .unwrap();
                match (alias_of, alias_to) {
                    (Some(of), _) => writeln!(text, "  aliasOf: d{of}.example").unwrap(),
                    (None, to) => {
                        let (m, d) = to.unwrap_or((9, 9));
                        writeln!(
                            text,
                            "  inbound:\n    aliases: [{{match: postmaster, \
                             to: [m{m}@d{d}.example]}}]"
                        )
                        .unwrap();
                    }
                }
            }
            Self::Mailbox { n, domain, namespace, name, more } => {
                let more = match more {
                    More::Nothing => String::new(),
                    More::Password => format!("passwords: [{{name: a, hash: \"{HASH}\"}}]"),
                    More::Alias(n, d) => format!("aliases: [a{n}@d{d}.example]"),
                    More::Identity(n, d) => format!(
                        "passwords: [{{name: a, hash: \"{HASH}\"}}]\n  \
                         identities: [i{n}@d{d}.example]"
                    ),
                    More::AllOf(d) => format!(
                        "passwords: [{{name: a, hash: \"{HASH}\"}}]\n  \
                         identities: [\"*@d{d}.example\"]"
                    ),
                    More::Storage(n, d) => {
                        let id = StorageId::of(&format!("m{n}@d{d}.example").parse().unwrap());
                        format!("storageId: {}", id.unwrap())
                    }
                };
                write!(
                    text,
                    "{HEAD} Mailbox\nmetadata: {{name: m{name}, namespace: t{namespace}}}\n\
                     spec:\n  address: m{n}@d{domain}.example\n  {more}\n"
                )
                .unwrap();
            }
        }
    }
}

fn domain() -> impl Strategy<Value = u8> {
    0..4u8
}

fn resource() -> impl Strategy<Value = Resource> {
    let more = prop_oneof![
        4 => Just(More::Nothing),
        4 => Just(More::Password),
        2 => (0..3u8, domain()).prop_map(|(n, d)| More::Alias(n, d)),
        4 => (0..3u8, domain()).prop_map(|(n, d)| More::Identity(n, d)),
        2 => domain().prop_map(More::AllOf),
        4 => (0..6u8, domain()).prop_map(|(n, d)| More::Storage(n, d)),
    ];
    let namespace = select(vec![0, 0, 0, 0, 0, 0, 0, 1u8]);
    let alias_to = prop::option::of((0..6u8, domain()));
    let alias_of = prop::option::weighted(0.2, domain());
    prop_oneof![
        (domain(), namespace.clone(), alias_of, alias_to).prop_map(
            |(n, namespace, alias_of, alias_to)| Resource::Domain {
                n,
                namespace,
                alias_of,
                alias_to
            }
        ),
        (0..6u8, domain(), namespace, any::<u8>(), more).prop_map(
            |(n, domain, namespace, name, more)| Resource::Mailbox {
                n,
                domain,
                namespace,
                name,
                more
            }
        ),
    ]
}

/// Each domain in a file of its own, and files of other things beside them.
fn first() -> impl Strategy<Value = BTreeMap<u8, Vec<Resource>>> {
    let domains = (0..4u8).map(|n| {
        let own = Resource::Domain { n, namespace: 0, alias_of: None, alias_to: None };
        (n, vec![own])
    });
    let domains: BTreeMap<u8, Vec<Resource>> = domains.collect();
    vec((4..8u8, resource()), 0..6).prop_map(move |others| {
        let mut files = domains.clone();
        for (file, resource) in others {
            files.entry(file).or_default().push(resource);
        }
        files
    })
}

#[derive(Clone, Debug)]
enum Change {
    Add(u8, Resource),
    Remove(u8, usize),
    Gone(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..9u8, resource()).prop_map(|(file, resource)| Change::Add(file, resource)),
        3 => (0..9u8, 0..3usize).prop_map(|(file, at)| Change::Remove(file, at)),
        1 => (0..9u8).prop_map(Change::Gone),
    ]
}

fn written(files: &BTreeMap<u8, Vec<Resource>>) -> Files {
    let text = |resources: &Vec<Resource>| {
        resources.iter().fold(String::new(), |mut text, resource| {
            resource.write(&mut text);
            text
        })
    };
    files.iter().map(|(n, resources)| (format!("{n}.yaml"), text(resources))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_table_is_the_same_however_it_was_made(
        first in first(),
        changes in vec(change(), 1..8),
    ) {
        let mut files = first;
        let mut before = compile(&written(&files), None).0.ok();
        for change in changes {
            match change {
                Change::Add(file, resource) => files.entry(file).or_default().push(resource),
                Change::Remove(file, at) => {
                    let resources = files.entry(file).or_default();
                    if at < resources.len() {
                        resources.remove(at);
                    }
                }
                Change::Gone(file) => drop(files.remove(&file)),
            }
            let texts = written(&files);
            let (anew, _) = compile(&texts, None);
            let (after, _) = compile(&texts, before.as_ref());
            match (anew, after) {
                (Ok(anew), Ok(after)) => {
                    prop_assert_eq!(said(&anew), said(&after), "{:#?}", texts);
                    before = Some(after);
                }
                (Err(_), Err(_)) => {}
                (anew, after) => {
                    let (anew, after) = (anew.err(), after.err());
                    prop_assert!(false, "{texts:#?}: anew {anew:?}, after {after:?}");
                }
            }
        }
    }
}

fn file(n: u8, mailboxes: &str) -> (String, String) {
    let text = format!(
        "{HEAD} MailDomain\nmetadata: {{name: d{n}}}\nspec:\n  domain: d{n}.example\n  inbound: \
         {{aliases: [{{match: postmaster, to: [p@elsewhere.example]}}]}}\n{mailboxes}"
    );
    (format!("{n}.yaml"), text)
}

fn mailbox(name: &str, address: &str, more: &str) -> String {
    format!("{HEAD} Mailbox\nmetadata: {{name: {name}}}\nspec:\n  address: {address}\n{more}")
}

#[test]
fn files_that_have_nothing_to_do_with_a_change_are_not_read_for_it() {
    let alice = mailbox("alice", "alice@d0.example", "");
    let bob = mailbox("bob", "bob@d1.example", "  aliases: [b@d2.example]\n");
    let carol = mailbox("carol", "carol@d2.example", "");
    let dave = mailbox("dave", "dave@d3.example", "");
    let files: Files =
        [file(0, &alice), file(1, &bob), file(2, &carol), file(3, &dave)].into_iter().collect();
    let (before, all) = compile(&files, None);
    let before = before.unwrap();
    assert_eq!(all.len(), 4);
    let read = |changed: (String, String)| {
        let mut files = files.clone();
        files.extend([changed]);
        let (after, again) = compile(&files, Some(&before));
        let anew = compile(&files, None).0;
        assert_eq!(after.as_ref().map(said).ok(), anew.as_ref().map(said).ok());
        let again: Vec<String> = again.into_iter().collect();
        (again.join(" "), after.map(|it| it.table.mailboxes()).map_err(|it| it[0].to_string()))
    };
    let ann = mailbox("ann", "ann@d0.example", "");
    assert_eq!(read(file(0, &alice)), (String::new(), Ok(4)), "nothing has changed");
    assert_eq!(read(file(0, &(alice + &ann))), ("0.yaml".into(), Ok(5)));
    assert_eq!(read(file(4, &mailbox("e", "e@d4.example", ""))), ("4.yaml".into(), Ok(5)));
    assert_eq!(read(file(2, "")), ("1.yaml 2.yaml".into(), Ok(3)), "bob has an alias there");
    assert_eq!(read(file(0, "")), ("0.yaml".into(), Ok(3)), "she is gone");
    let erin = mailbox("erin", "erin@d3.example", "");
    let elsewhere = read(("4.yaml".into(), erin));
    assert_eq!(elsewhere, ("3.yaml 4.yaml".into(), Ok(5)), "the domain is that of another file");
    let twin = read(file(0, &mailbox("dave", "dave@d0.example", "")));
    let problem = "3.yaml:11: metadata.name: there are two of the name \"dave\"; give each Mailbox \
                   of a namespace its own name";
    assert_eq!(twin, ("0.yaml 3.yaml".into(), Err(problem.into())));
}

/// Whether what is made of changed files is what compiling them anew makes, as far as it goes.
fn changes_as_anew(first: &Files, changed: impl IntoIterator<Item = (String, String)>) {
    let before = compile(first, None).0.unwrap();
    let mut files = first.clone();
    files.extend(changed);
    let [anew, after] = [None, Some(&before)].map(|before| {
        let (compiled, _) = compile(&files, before);
        compiled.as_ref().map(said).map_err(|problems| format!("{problems:?}"))
    });
    assert_ne!(after.as_ref().ok(), Some(&said(&before)), "nothing has changed");
    assert_eq!(after, anew);
}

#[test]
fn what_refers_to_what_has_changed_is_changed() {
    let password = format!("  passwords: [{{name: a, hash: \"{HASH}\"}}]\n");
    let bob =
        mailbox("bob", "bob@d1.example", &format!("  identities: [i@d2.example]\n{password}"));
    let first: Files = [file(1, &bob), file(2, "")].into_iter().collect();
    let alias_domain = format!(
        "{HEAD} MailDomain\nmetadata: {{name: a}}\nspec: {{domain: a.example, aliasOf: d2.example}}"
    );
    changes_as_anew(&first, [("a.yaml".into(), alias_domain)]); // and bob is i@a.example, too
}

#[test]
fn ids_of_storage_are_compared_with_all() {
    let id = StorageId::of(&"x@d2.example".parse().unwrap()).unwrap();
    let given = |name: &str, address: &str| mailbox(name, address, &format!("  storageId: {id}\n"));
    let first: Files =
        [file(1, &given("a", "a@d1.example")), file(2, ""), file(3, "")].into_iter().collect();
    changes_as_anew(&first, [file(2, &mailbox("x", "x@d2.example", ""))]);
    changes_as_anew(&first, [file(3, &given("b", "b@d3.example"))]);
}
