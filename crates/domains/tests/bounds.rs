//! How much may be declared: as much as is allowed compiles, and one more is refused with the place
//! and what to do.

use std::fmt::Write;

use domains::{Problem, Settings, Table};

const HEAD: &str = "apiVersion: postrider.dev/v1alpha1\nkind:";

fn compile(text: &str) -> Result<Table, Vec<String>> {
    let compiled = Table::from_yaml([("f.yaml", text)], &Settings::default());
    compiled.map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// A domain with what stands in its `inbound`, and Alice with what stands in her `spec`.
fn domain(inbound: &str, alice: &str) -> String {
    format!(
        "{HEAD} MailDomain\nmetadata: {{name: d}}\nspec:\n  domain: d.example\n  inbound:\n    \
         aliases: [{{match: postmaster, to: [alice@d.example]}}{inbound}]\n---\n{HEAD} Mailbox\n\
         metadata: {{name: alice}}\nspec:\n  address: alice@d.example\n{alice}"
    )
}

fn alias_domains(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, n| {
        let spec = format!("{{domain: a{n}.example, aliasOf: d.example}}");
        let _ = write!(text, "---\n{HEAD} MailDomain\nmetadata: {{name: a{n}}}\nspec: {spec}\n");
        text
    })
}

fn aliases(count: usize) -> String {
    format!("  aliases: [{}]\n", joined((0..count).map(|n| format!("a{n}@d.example"))))
}

fn gateway(count: usize) -> String {
    let list = joined((0..count).map(|n| format!("r{n}@g.example")));
    format!(
        "{HEAD} MailDomain\nmetadata: {{name: g}}\nspec:\n  domain: g.example\n  target: relay\n  \
         relay:\n    hosts: [mail.g.example]\n    recipients: {{list: [postmaster@g.example, \
         {list}]}}\n"
    )
}

#[test]
fn as_much_as_is_allowed_and_no_more() {
    type Text = fn(usize) -> String;
    let cases: [(usize, Text, &str); 7] = [
        (
            50,
            |count| domain("", "") + &alias_domains(count),
            "f.yaml:268: spec.aliasOf: d.example has more than 50 aliases; declare its mailboxes \
             as domains of their own",
        ),
        (
            29,
            // 30 names in 50 domains.
            |count| domain("", &aliases(count)) + &alias_domains(49),
            "f.yaml:12: spec.identities: it may send as 1550 addresses; name *@ and the domain, or \
             fewer aliases and alias domains",
        ),
        (
            100,
            |count| domain("", &aliases(count)),
            "f.yaml:14: spec.aliases: has 101 entries; write 0 to 100",
        ),
        (
            100,
            |count| {
                let list = joined((0..count).map(|n| format!("i{n}@d.example")));
                domain("", &format!("  identities: [{list}]\n"))
            },
            "f.yaml:14: spec.identities: has 101 entries; write 0 to 100",
        ),
        (
            499,
            |count| {
                let alias = |n| format!(", {{match: a{n}, to: [alice@d.example]}}");
                domain(&(0..count).map(alias).collect::<String>(), "")
            },
            "f.yaml:7: spec.inbound.aliases: has 501 entries; write 0 to 500",
        ),
        (
            64,
            |count| {
                let list = joined((0..count).map(|n| format!("a{n}@elsewhere.example")));
                domain(&format!(", {{match: team, to: [{list}]}}"), "")
            },
            "f.yaml:7: spec.inbound.aliases[1].to: has 65 entries; write 1 to 64",
        ),
        (
            9_999,
            gateway,
            "f.yaml:9: spec.relay.recipients.list: has 10001 entries; write 0 to 10000",
        ),
    ];
    let mut mistaken = String::new();
    for (max, text, wanted) in cases {
        assert_eq!(compile(&text(max)).err(), None, "as many as are allowed: {wanted}");
        let problems = compile(&text(max + 1)).err().unwrap_or_default();
        if problems != [wanted] {
            mistaken += &format!("{problems:#?}\nis not {wanted}\n");
        }
    }
    assert!(mistaken.is_empty(), "{mistaken}");
}
