//! What the table answers, and what it refuses to become.
//!
//! `bad/*.yaml`: each file is one mistake; its first line is a comment with the message expected.
//! The operator refuses the same files.

use domains::{Destination, Resolution, Settings, Table, yaml};
use mail_types::{Domain, ForwardPath, Mailbox};

const QUICKSTART: &str = include_str!("../../../examples/quickstart/domains/example.org.yaml");

fn compile(text: &str) -> Result<Table, Vec<String>> {
    let shown = |problems: Vec<domains::Problem>| {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let declared = yaml::parse("f.yaml", text).map_err(shown)?;
    Table::compile(&declared, &Settings::default()).map_err(shown)
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).unwrap()
}

fn resolve(table: &Table, path: &str) -> Resolution {
    table.resolve(&ForwardPath::parse(path).unwrap())
}

fn local(addresses: &[&str]) -> Resolution {
    let destination = |text: &&str| match Mailbox::parse(text).unwrap() {
        address if text.ends_with("@example.org") => Destination::Mailbox { address },
        address => Destination::Remote { address },
    };
    Resolution::Local(addresses.iter().map(destination).collect())
}

#[test]
fn the_quickstart_resolves() {
    let table = compile(QUICKSTART).unwrap();
    let alice = local(&["alice@example.org"]);
    for path in [
        "alice@example.org",
        "ALICE@Example.ORG",
        "alice+list@example.org",
        "\"alice\"@example.org",
        "postmaster@example.org",
        "PostMaster",
    ] {
        assert_eq!(resolve(&table, path), alice, "{path}");
    }
    assert_eq!(
        resolve(&table, "team@example.org"),
        local(&["alice@example.org", "bob@example.org"])
    );
    for path in ["nobody@example.org", "+alice@example.org", "alice%example.net@example.org"] {
        assert_eq!(resolve(&table, path), Resolution::UnknownRecipient, "{path}");
    }
    for path in ["a@example.net", "a@sub.example.org", "a@[192.0.2.1]"] {
        assert!(matches!(resolve(&table, path), Resolution::Remote(_)), "{path}");
    }
}

#[test]
fn aliases_lead_elsewhere_once() {
    let more =
        "      - { match: both, to: [team@example.org, bob@example.org, x@example.net] }\n---";
    let table = compile(&QUICKSTART.replacen("---", more, 1)).unwrap();
    let want = local(&["alice@example.org", "bob@example.org", "x@example.net"]);
    assert_eq!(resolve(&table, "both@example.org"), want);
}

#[test]
fn a_catch_all_takes_the_rest() {
    let catch_all = "    catchAll: bob@example.org\n    aliases:";
    let table = compile(&QUICKSTART.replacen("    aliases:", catch_all, 1)).unwrap();
    assert_eq!(resolve(&table, "anything@example.org"), local(&["bob@example.org"]));
    assert_eq!(resolve(&table, "alice@example.org"), local(&["alice@example.org"]));
}

#[test]
fn a_disabled_domain_takes_nothing() {
    let disabled = "    enabled: false\n    aliases:";
    let table = compile(&QUICKSTART.replacen("    aliases:", disabled, 1)).unwrap();
    assert_eq!(resolve(&table, "alice@example.org"), Resolution::Disabled);
    assert!(table.is_hosted(&Domain::parse("example.org").unwrap()));
}

#[test]
fn identities_own_their_addresses() {
    let alias = "  address: alice@example.org\n  aliases: [a.lice@example.org]";
    let table = compile(&QUICKSTART.replacen("  address: alice@example.org", alias, 1)).unwrap();
    let alice = table.identity("Alice@example.org").unwrap();
    assert_eq!(alice.password_hashes().len(), 1);
    for own in ["alice@example.org", "A.lice@example.org", "alice+tag@example.org"] {
        assert!(alice.may_send_as(&mailbox(own)), "{own}");
    }
    for foreign in ["bob@example.org", "team@example.org", "alice@example.net", "+x@example.org"] {
        assert!(!alice.may_send_as(&mailbox(foreign)), "{foreign}");
    }
    assert!(table.identity("bob@example.org").unwrap().password_hashes().is_empty());
    assert!(table.identity("team@example.org").is_none());
    assert!(table.identity("alice").is_none());
    let debug = format!("{alice:?}");
    assert!(!debug.contains("argon2"), "{debug}");
}

#[test]
fn a_suspended_mailbox_receives_and_does_not_log_in() {
    let suspended = "  address: alice@example.org\n  suspended: true";
    let table =
        compile(&QUICKSTART.replacen("  address: alice@example.org", suspended, 1)).unwrap();
    assert!(table.identity("alice@example.org").unwrap().password_hashes().is_empty());
    assert_eq!(resolve(&table, "alice@example.org"), local(&["alice@example.org"]));
}

#[test]
fn bad_files_are_refused_with_their_message() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad");
    let mut checked = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let want = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap();
        let problems = compile(&text).expect_err(want);
        let shown = problems.join("\n");
        assert!(problems.iter().any(|p| p == &format!("f.yaml:{want}")), "{path:?}:\n{shown}");
        checked += 1;
    }
    assert!(checked >= 12, "{checked} files");
}
