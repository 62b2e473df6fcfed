//! What the table answers, and what it refuses to become.
//!
//! `bad/*.yaml`: each file is one mistake; its first line is a comment with the message expected.
//! The operator refuses the same files.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use domains::{Destination, OnFull, Resolution, Settings, Srs, StorageId, Table, yaml};
use mail_types::{Domain, ForwardPath, Host, Mailbox, Timestamp};
use proptest::prelude::*;

const QUICKSTART: &str = include_str!("../../../examples/quickstart/domains/example.org.yaml");

fn compile(text: &str) -> Result<Table, Vec<String>> {
    compile_with(text, &Settings::default())
}

fn compile_with(text: &str, settings: &Settings) -> Result<Table, Vec<String>> {
    Table::from_yaml([("f.yaml", text)], settings)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
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
fn the_quickstart_password_is_the_one_that_the_readme_names() {
    let table = compile(QUICKSTART).unwrap();
    let alice = table.identity("alice@example.org").unwrap();
    let [hash] = alice.password_hashes() else { panic!("{alice:?}") };
    assert!(domains::password::is_match("postrider-quickstart", hash));
}

#[test]
fn sending_limits_and_names_of_passwords() {
    let text = QUICKSTART
        .replacen("  inbound:", "  sendingLimits: {recipientsPerDay: 90}\n  inbound:", 1)
        .replacen("  passwords:", "  sendingLimits: {recipientsPerHour: 7}\n  passwords:", 1);
    let table = compile(&text).unwrap();
    let alice = table.identity("alice@example.org").unwrap();
    let of_domain = table.sending_limits(&Domain::parse("example.org").unwrap());
    let (hour, day) = (alice.sending_limits().recipients_per_hour, of_domain.recipients_per_day);
    assert_eq!((hour, day), (Some(7), Some(90)));
    assert_eq!(table.sending_limits(&Domain::parse("other.test").unwrap()), Default::default());
    let names: Vec<&str> = alice.passwords().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 1, "{names:?}");
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
fn a_domain_received_elsewhere_is_remote() {
    let elsewhere = "    enabled: false\n    aliases:";
    let text = QUICKSTART.replacen("    aliases:", elsewhere, 1);
    let domain = Domain::parse("example.org").unwrap();
    assert!(compile(&text).unwrap_err()[0].starts_with("postmaster: no domain takes mail"));
    let settings = Settings { postmaster: Some(mailbox("ops@example.net")) };
    let table = compile_with(&text, &settings).unwrap();
    let remote = Resolution::Remote(Host::Domain(domain.clone()));
    assert_eq!(resolve(&table, "alice@example.org"), remote);
    assert!(!table.is_hosted(&domain));
    assert_eq!(table.tenant_of(&domain).unwrap().as_str(), "default");
    assert!(table.identity("alice@example.org").is_some());
    assert_eq!(resolve(&table, "postmaster"), local(&["ops@example.net"]));
}

/// We forwarded it, another forwarded it back under an address of his, and we forwarded it again.
#[test]
fn a_bounce_of_what_passed_us_twice_is_for_the_first_sender() {
    let table = compile(QUICKSTART).unwrap();
    let (srs, now) = (Srs::new(&[1; 32], &[]).unwrap(), Timestamp::from_unix_ms(1_795_388_895_042));
    let here = Domain::parse("example.org").unwrap();
    let writer = mailbox("writer@far.example");
    let once = srs.forward(&writer, &here, now).unwrap();
    let rest = once.local_part().as_str().strip_prefix("SRS0").unwrap().to_owned();
    let between = mailbox(&format!("SRS1=abcd=example.org={rest}@between.example"));
    let twice = srs.forward(&between, &here, now).unwrap();
    assert!(twice.to_string().starts_with("SRS1="), "{twice}");
    assert_eq!(table.forwarded_sender(&srs, &twice, now), Some(writer.clone()));
    assert_eq!(table.forwarded_sender(&srs, &once, now), Some(writer.clone()));
    assert_eq!(table.forwarded_sender(&srs, &writer, now), None);
    // Of a domain that is not hosted here, whoever knows the key.
    let elsewhere = srs.forward(&writer, &Domain::parse("example.net").unwrap(), now).unwrap();
    assert_eq!(table.forwarded_sender(&srs, &elsewhere, now), None);
}

#[test]
fn the_process_postmaster() {
    let with = |address| Settings { postmaster: Some(mailbox(address)) };
    let table = compile_with(QUICKSTART, &with("team@example.org")).unwrap();
    let team = local(&["alice@example.org", "bob@example.org"]);
    assert_eq!(resolve(&table, "Postmaster"), team);
    let problems = compile_with(QUICKSTART, &with("nobody@example.org")).unwrap_err();
    let want = "postmaster: nobody@example.org goes nowhere; name an address that exists";
    assert_eq!(problems, [want]);
}

#[test]
fn sub_addresses_keep_their_tag() {
    let table = compile(QUICKSTART).unwrap();
    for (path, reached) in [
        ("alice+list@example.org", "alice+list@example.org"),
        ("ALICE+List+x@example.org", "alice+List+x@example.org"),
        ("alice+@example.org", "alice+@example.org"),
        ("postmaster+x@example.org", "alice@example.org"),
        ("\"alice+a b\"@example.org", "alice@example.org"),
    ] {
        assert_eq!(resolve(&table, path), local(&[reached]), "{path}");
        assert_eq!(table.mailbox(&mailbox(reached)), Some(mailbox("alice@example.org")));
    }
    for path in ["team@example.org", "nobody@example.org", "alice@example.net", "a@[192.0.2.1]"] {
        assert_eq!(table.mailbox(&mailbox(path)), None, "{path}");
    }
}

#[test]
fn a_mailbox_reached_twice_is_one_destination() {
    let more = "      - { match: both, to: [alice+x@example.org, team+y@example.org] }\n---";
    let table = compile(&QUICKSTART.replacen("---", more, 1)).unwrap();
    let want = local(&["alice+x@example.org", "bob@example.org"]);
    assert_eq!(resolve(&table, "both@example.org"), want);
}

#[test]
fn limits_and_counts_are_told() {
    let text = "    maxMessageSizeBytes: 1000000\n    aliases:";
    let text = QUICKSTART.replacen("    aliases:", text, 1);
    let table = compile(&text).unwrap();
    let domain = Domain::parse("example.org").unwrap();
    assert_eq!(table.max_message_size_bytes(&domain), Some(1_000_000));
    assert_eq!(table.hosted_domains(), [&domain]);
    assert_eq!(table.mailboxes(), 2);
}

#[test]
fn resources_from_elsewhere_are_refused_alike() {
    let declared = yaml::parse("f.yaml", &QUICKSTART.replace("postmaster", "master")).unwrap();
    let declared: Vec<_> = declared
        .into_iter()
        .map(|each| domains::Declared::new("default/x", each.resource().clone()))
        .collect();
    let problems = Table::compile(&declared, &Settings::default()).unwrap_err();
    assert_eq!(problems[0].field, "spec.inbound.aliases");
    assert!(problems[0].to_string().starts_with("default/x:0: spec.inbound.aliases: postmaster@"));
}

#[test]
fn identities_own_their_addresses() {
    let alias = "  address: alice@example.org\n  aliases: [a.lice@example.org]";
    let table = compile(&QUICKSTART.replacen("  address: alice@example.org", alias, 1)).unwrap();
    let alice = table.identity("Alice@example.org").unwrap();
    assert_eq!(alice.password_hashes().len(), 1);
    for own in ["alice@example.org", "A.lice@example.org", "alice+tag@example.org"] {
        assert!(alice.may_send_as(&mailbox(own), &table), "{own}");
    }
    for foreign in ["bob@example.org", "team@example.org", "alice@example.net", "+x@example.org"] {
        assert!(!alice.may_send_as(&mailbox(foreign), &table), "{foreign}");
    }
    assert!(table.identity("bob@example.org").is_none(), "has no password");
    assert!(table.identity("team@example.org").is_none());
    assert!(table.identity("alice").is_none());
    let debug = format!("{alice:?}");
    assert!(!debug.contains("argon2"), "{debug}");
}

#[test]
fn identities_are_sent_as_and_not_received_for() {
    let identities =
        "  address: alice@example.org\n  identities: [sales@example.org, \"*@b.example\"]";
    let other = "\n---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
                 metadata: {name: b}\nspec: {domain: b.example, inbound: {enabled: false}}\n";
    let text = QUICKSTART.replacen("  address: alice@example.org", identities, 1) + other;
    let table = compile(&text).unwrap();
    let alice = table.identity("alice@example.org").unwrap();
    for own in ["alice@example.org", "Sales@example.org", "sales+x@example.org", "who@b.example"] {
        assert!(alice.may_send_as(&mailbox(own), &table), "{own}");
    }
    for foreign in ["bob@example.org", "who@sub.b.example", "\"x@b.example\"@example.net"] {
        assert!(!alice.may_send_as(&mailbox(foreign), &table), "{foreign}");
    }
    assert_eq!(resolve(&table, "sales@example.org"), Resolution::UnknownRecipient);
}

#[test]
fn an_alias_domain_has_all_names_of_the_other() {
    let alias = "\n---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
                 metadata: {name: b}\nspec: {domain: b.example, aliasOf: example.org}\n";
    let catch_all = "    catchAll: bob@example.org\n    aliases:";
    let text = QUICKSTART.replacen("    aliases:", catch_all, 1) + alias;
    let table = compile(&text).unwrap();
    assert_eq!(resolve(&table, "Alice@B.example"), local(&["alice@example.org"]));
    assert_eq!(resolve(&table, "alice+x@b.example"), local(&["alice+x@example.org"]));
    assert_eq!(resolve(&table, "postmaster@b.example"), local(&["alice@example.org"]));
    assert_eq!(resolve(&table, "else@b.example"), local(&["bob@example.org"]));
    let team = local(&["alice@example.org", "bob@example.org"]);
    assert_eq!(resolve(&table, "team@b.example"), team);
    assert_eq!(table.mailbox(&mailbox("bob@b.example")), Some(mailbox("bob@example.org")));
    let alice = table.identity("alice@example.org").unwrap();
    assert!(alice.may_send_as(&mailbox("alice@b.example"), &table));
    assert!(!alice.may_send_as(&mailbox("bob@b.example"), &table));
    assert!(table.identity("alice@b.example").is_none(), "the login has one name");
    // One of both names in a list of recipients is one recipient.
    let both = text.replacen(
        "team, to: [alice@example.org,",
        "team, to: [alice@b.example, alice@example.org,",
        1,
    );
    assert_eq!(resolve(&compile(&both).unwrap(), "team@example.org"), team);
}

/// What is received elsewhere is two domains, whatever they are here.
#[test]
fn alias_domains_that_are_received_elsewhere_are_not_confused() {
    let head = "\n---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n";
    let elsewhere = |name, rest| {
        format!(
            "{head}metadata: {{name: {name}}}\n\
             spec: {{domain: {name}.example, {rest}inbound: {{enabled: false}}}}\n"
        )
    };
    let both = "team, to: [x@a.example, x@b.example,";
    let text = QUICKSTART.replacen("team, to: [", both, 1)
        + &elsewhere("a", "")
        + &elsewhere("b", "aliasOf: a.example, ");
    let team = ["x@a.example", "x@b.example", "alice@example.org", "bob@example.org"];
    assert_eq!(resolve(&compile(&text).unwrap(), "team@example.org"), local(&team));
}

#[test]
fn a_mailbox_that_only_sends_takes_no_mail_not_even_by_the_catch_all() {
    let send_only = "  address: alice@example.org\n  sendOnly: true";
    let inbound = "  inbound:\n    catchAll: bob@example.org\n";
    let text = QUICKSTART
        .replace("to: [alice@example.org", "to: [bob@example.org")
        .replacen("  address: alice@example.org", send_only, 1)
        .replacen("  inbound:\n", inbound, 1);
    let table = compile(&text).unwrap();
    for path in ["alice@example.org", "alice+x@example.org"] {
        assert_eq!(resolve(&table, path), Resolution::UnknownRecipient, "{path}");
        assert_eq!(table.mailbox(&mailbox(path)), None, "{path}");
    }
    assert_eq!(resolve(&table, "else@example.org"), local(&["bob@example.org"]));
    let alice = table.identity("alice@example.org").unwrap();
    assert!(alice.may_send_as(&mailbox("alice@example.org"), &table));
}

#[test]
fn a_suspended_mailbox_receives_and_does_not_log_in() {
    let suspended = "  address: alice@example.org\n  suspended: true";
    let table =
        compile(&QUICKSTART.replacen("  address: alice@example.org", suspended, 1)).unwrap();
    assert!(table.identity("alice@example.org").is_none());
    assert_eq!(resolve(&table, "alice@example.org"), local(&["alice@example.org"]));
}

#[test]
fn a_mailbox_is_stored_by_its_address_or_the_id_it_is_given() {
    let alias = "\n---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
                 metadata: {name: b}\nspec: {domain: b.example, aliasOf: example.org}\n";
    let table = compile(&(QUICKSTART.to_owned() + alias)).unwrap();
    let id = |table: &Table, address: &str| table.storage(&mailbox(address)).map(|it| it.id);
    let alice = StorageId::of(&mailbox("alice@example.org"));
    for address in
        ["alice@example.org", "ALICE@example.org", "alice+x@example.org", "alice@b.example"]
    {
        assert_eq!(id(&table, address), alice, "{address}");
    }
    assert_ne!(id(&table, "bob@example.org"), alice);
    for address in ["team@example.org", "nobody@example.org", "alice@example.net"] {
        assert_eq!(id(&table, address), None, "{address}");
    }
    // Alice marries, and a new Alice comes.
    let renamed = format!("  address: al@example.org\n  storageId: {}", alice.unwrap());
    let renamed = QUICKSTART.replace("[alice@example.org", "[al@example.org").replacen(
        "  address: alice@example.org",
        &renamed,
        1,
    );
    assert_eq!(id(&compile(&renamed).unwrap(), "al@example.org"), alice);
    let new = alice.unwrap().to_string().replacen(char::is_numeric, "f", 1);
    let both = renamed
        + &format!(
            "\n---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\nmetadata: {{name: new}}\n\
             spec: {{address: alice@example.org, storageId: {new}}}\n"
        );
    let table = compile(&both).unwrap();
    assert_eq!(id(&table, "al@example.org"), alice);
    assert_eq!(id(&table, "alice@example.org").unwrap().to_string(), new);
}

#[test]
fn a_quota_is_the_mailboxes_own_or_else_its_domains() {
    let own = "  address: alice@example.org\n  quota: {onFull: reject}";
    let text = QUICKSTART
        .replacen("  domain: example.org\n", "  domain: example.org\n  quota: {bytes: 70000}\n", 1)
        .replacen("  address: alice@example.org", own, 1)
        .replacen(
            "  address: bob@example.org",
            "  address: bob@example.org\n  quota: {bytes: 80000}",
            1,
        );
    let table = compile(&text).unwrap();
    let quota = |address: &str| {
        let storage = table.storage(&mailbox(address)).unwrap();
        (storage.quota_bytes, storage.on_full)
    };
    assert_eq!(quota("alice@example.org"), (Some(70_000), OnFull::Reject));
    assert_eq!(quota("bob@example.org"), (Some(80_000), OnFull::Defer));
    let mut bounded: Vec<_> =
        table.mailboxes_with_quota().map(|(address, _)| address.to_string()).collect();
    bounded.sort();
    assert_eq!(bounded, ["alice@example.org", "bob@example.org"]);
    let boundless = compile(QUICKSTART).unwrap();
    assert_eq!(boundless.mailboxes_with_quota().count(), 0);
    assert_eq!(boundless.storage(&mailbox("bob@example.org")).unwrap().quota_bytes, None);
}

const GATEWAY: &str = "apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {name: g, namespace: t}
spec:
  domain: g.example
  target: relay
  relay:
    hosts: [mail.g.example, \"192.0.2.1:2525\"]
    recipients: {callAhead: true}
    tls: {mode: required}
    auth: {user: us, passwordFile: at-g}
  inbound:
    maxMessageSizeBytes: 100000
    aliases:
    - {match: sales, to: [sam@g.example, x@example.net]}
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {name: carol, namespace: t}
spec:
  address: carol@g.example
  passwords: [{name: a, hash: '$argon2id$v=19$m=8,t=1,p=1$cG9zdHJpZGVydGVzdCE$\
                               dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk'}]
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {name: robot, namespace: t}
spec: {address: robot@g.example, sendOnly: true}
---
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {name: h, namespace: t}
spec: {domain: h.example, aliasOf: g.example}
";

fn handed_over(addresses: &[&str]) -> Resolution {
    let destination = |text: &&str| match Mailbox::parse(text).unwrap() {
        address if text.ends_with("@g.example") => Destination::Gateway { address },
        address => Destination::Remote { address },
    };
    Resolution::Local(addresses.iter().map(destination).collect())
}

#[test]
fn a_gateway_domain_asks_its_server() {
    let table = compile(GATEWAY).unwrap();
    let domain = Domain::parse("g.example").unwrap();
    assert!(table.is_hosted(&domain));
    assert_eq!(table.max_message_size_bytes(&domain), Some(100_000));
    let gateway = table.gateway(&domain).unwrap();
    let servers: Vec<String> = gateway.servers.iter().cloned().map(String::from).collect();
    assert_eq!(servers, ["mail.g.example:25", "192.0.2.1:2525"]);
    assert_eq!(gateway.login.as_ref().unwrap().password_file, "t/at-g");
    let alias = Domain::parse("h.example").unwrap();
    assert!(table.gateway(&alias).is_none() && table.is_handed_over(&alias));
    for (path, address) in [
        ("Bob@g.example", "Bob@g.example"),
        ("bob+x@G.example", "bob+x@g.example"),
        ("carol+x@g.example", "carol+x@g.example"),
        ("postmaster@g.example", "postmaster@g.example"),
        ("bob@h.example", "bob@g.example"),
    ] {
        let (gateway, address) = (gateway.clone(), mailbox(address));
        let want = Resolution::CallAhead { gateway, address };
        assert_eq!(resolve(&table, path), want, "{path}");
    }
    assert_eq!(resolve(&table, "carol@h.example"), handed_over(&["carol@g.example"]));
    let sales = handed_over(&["sam@g.example", "x@example.net"]);
    assert_eq!(resolve(&table, "Sales@g.example"), sales);
    assert_eq!(resolve(&table, "sales+x@g.example"), sales);
    assert_eq!(resolve(&table, "robot@g.example"), Resolution::UnknownRecipient);
    assert_eq!(resolve(&table, "postmaster"), handed_over(&["postmaster@g.example"]));
    assert!(matches!(resolve(&table, "bob@sub.g.example"), Resolution::Remote(_)));
    // Its owner logs in here, and his mail is at the server.
    assert!(table.identity("carol@g.example").is_some());
    assert_eq!(table.mailbox(&mailbox("carol@g.example")), None);
}

#[test]
fn a_gateway_domain_takes_mail_for_those_of_its_list() {
    let list = "recipients: {list: [postmaster@g.example, Bob@g.example, sam@g.example]}";
    let text = GATEWAY.replacen("recipients: {callAhead: true}", list, 1);
    let table = compile(&text).unwrap();
    assert_eq!(table.mailboxes(), 2);
    for path in ["bob@g.example", "carol@g.example", "postmaster@g.example"] {
        assert_eq!(resolve(&table, path), handed_over(&[path]), "{path}");
    }
    assert_eq!(resolve(&table, "BOB@h.example"), handed_over(&["BOB@g.example"]));
    for path in ["bob+x@g.example", "carol+x@g.example", "else@g.example", "robot@g.example"] {
        assert_eq!(resolve(&table, path), Resolution::UnknownRecipient, "{path}");
    }
    // An alias elsewhere that leads there, and back.
    let more = "      - { match: g, to: [bob@g.example, bob@h.example] }\n---";
    let both = QUICKSTART.replacen("---", more, 1) + "\n---\n" + &text;
    let table = compile(&both).unwrap();
    assert_eq!(resolve(&table, "g@example.org"), handed_over(&["bob@g.example"]));
    let astray = both.replace("to: [bob@g.example", "to: [else@g.example");
    let problems = compile(&astray).unwrap_err();
    assert!(problems[0].contains("else@g.example goes nowhere"), "{problems:?}");
}

/// The comments at the beginning of a bad file: all that is wrong with it.
fn expected(text: &str) -> Vec<String> {
    let comments = text.lines().map_while(|line| line.strip_prefix("# "));
    let in_file = |message: &str| message.starts_with(|c: char| c.is_ascii_digit());
    let shown = |message: &str| match in_file(message) {
        true => format!("f.yaml:{message}"),
        false => message.to_owned(),
    };
    comments.map(shown).collect()
}

#[test]
fn bad_files_are_refused_with_their_messages() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad");
    let (mut checked, mut mistaken) = (0, String::new());
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let problems = compile(&text).err().unwrap_or_default();
        if problems != expected(&text) {
            mistaken += &format!("{}:\n{}\n", path.display(), problems.join("\n"));
        }
        checked += 1;
    }
    assert!(mistaken.is_empty(), "{mistaken}");
    assert!(checked >= 74, "{checked} files");
}

proptest! {
    /// Whatever graph of aliases compiles, every alias ends in a mailbox or elsewhere.
    #[test]
    fn what_compiles_leads_somewhere(
        edges in proptest::collection::vec(proptest::collection::vec(0usize..9, 1..4), 1..8)
    ) {
        let target = |n: &usize| match n {
            8 => "alice@example.org".to_owned(),
            n => format!("a{n}@example.org"),
        };
        let mut aliases = String::new();
        for (n, to) in edges.iter().enumerate() {
            let to: Vec<_> = to.iter().map(target).collect();
            aliases += &format!("      - {{ match: a{n}, to: [{}] }}\n", to.join(", "));
        }
        let text = QUICKSTART.replacen("---", &format!("{aliases}---"), 1);
        if let Ok(table) = compile(&text) {
            for n in 0..edges.len() {
                let address = format!("a{n}@example.org");
                prop_assert_eq!(resolve(&table, &address), local(&["alice@example.org"]));
            }
        }
    }

    /// No text makes the reader or the rules panic, and each refusal names its file.
    #[test]
    fn any_text_is_read_or_refused(
        cut in 0usize..900,
        junk in "[-:{}\\[\\]#&*!|>'\"%@, \\n\\ta-c]{0,12}",
    ) {
        let cut = cut.min(QUICKSTART.len());
        if QUICKSTART.is_char_boundary(cut) {
            let text = format!("{}{junk}{}", &QUICKSTART[..cut], &QUICKSTART[cut..]);
            if let Err(problems) = compile(&text) {
                prop_assert!(!problems.is_empty());
            }
        }
    }
}

#[test]
fn a_domain_chooses_what_separates_sub_addresses() {
    let with = |separators: &str| {
        let inbound = format!("  inbound:\n    subAddressSeparators: \"{separators}\"\n");
        compile(&QUICKSTART.replacen("  inbound:\n", &inbound, 1))
    };
    let both = with("-+").unwrap();
    for used in ["alice+x@example.org", "alice-x@example.org", "alice-x+y@example.org"] {
        assert_eq!(resolve(&both, used), local(&[used]), "{used}");
        assert_eq!(both.mailbox(&mailbox(used)), Some(mailbox("alice@example.org")), "{used}");
        let alice = both.identity("alice@example.org").unwrap();
        assert!(alice.may_send_as(&mailbox(used), &both), "{used}");
    }
    let none = with("").unwrap();
    for used in ["alice+x@example.org", "alice-x@example.org"] {
        assert_eq!(resolve(&none, used), Resolution::UnknownRecipient, "{used}");
    }
    for (wrong, said) in [("+.", "'.' is none of +-_=#"), ("++", "'+' is there twice")] {
        let problem = with(wrong).unwrap_err().remove(0);
        let field = "spec.inbound.subAddressSeparators: ";
        let is_told = [field, said, "or nothing"].iter().all(|part| problem.contains(part));
        assert!(is_told, "{problem}");
    }
}
