//! Specs that are wrong, each in one way: refused alike by the API server of Kubernetes, by the
//! schema of `crds/`, and by `postrider check`, with the field and the remedy.

use domains::Table;

/// The kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    MailDomain,
    Mailbox,
}

/// A wrong spec.
#[derive(Debug)]
pub struct Bad {
    pub kind: Kind,
    /// YAML, in one line.
    pub spec: String,
    /// What both say is wrong.
    pub field: &'static str,
    /// What both say is to be done; empty where a type or a name is wrong, which says it itself.
    pub remedy: &'static str,
}

const NAME: &str = "write a name such as example.org";
const ADDRESS: &str = "such as alice@example.org";
const LIMIT: &str = "write 1 to 10000000; who must not send at all has no passwords";
const QUOTA: &str = "write 65536 to 1125899906842624, or leave it out for any number";
const SIZE: &str = "write 65536 to 1073741824, or leave it out for the listener's limit";

/// A MailDomain with this beside its domain.
fn domain(more: &str, field: &'static str, remedy: &'static str) -> Bad {
    let spec = format!("{{domain: example.org, {more}}}");
    Bad { kind: Kind::MailDomain, spec, field, remedy }
}

/// One of this name.
fn named(name: &str, remedy: &'static str) -> Bad {
    let spec = format!("{{domain: {name:?}}}");
    Bad { kind: Kind::MailDomain, spec, field: "spec.domain", remedy }
}

/// A gateway domain with this in its relay.
fn gateway(relay: &str, field: &'static str, remedy: &'static str) -> Bad {
    domain(&format!("target: relay, relay: {{{relay}}}"), field, remedy)
}

/// A Mailbox with this beside its address.
fn mailbox(more: &str, field: &'static str, remedy: &'static str) -> Bad {
    let spec = format!("{{address: alice@example.org, {more}}}");
    Bad { kind: Kind::Mailbox, spec, field, remedy }
}

/// One with this address.
fn addressed(address: &str) -> Bad {
    let (spec, field) = (format!("{{address: {address:?}}}"), "spec.address");
    Bad { kind: Kind::Mailbox, spec, field, remedy: ADDRESS }
}

/// So many times, as elements of a list.
fn times(count: usize, element: impl Fn(usize) -> String) -> String {
    (0..count).map(element).collect::<Vec<_>>().join(", ")
}

/// All of them.
pub fn all() -> Vec<Bad> {
    let mut all = vec![
        named("", NAME),
        named("exa mple.org", NAME),
        named("alice@example.org", NAME),
        named("example..org", NAME),
        named(".example.org", NAME),
        named("example.org/mail", NAME),
        named("example.org:25", NAME),
        named("*.example.org", NAME),
        domain("aliasOf: \"exa mple\"", "spec.aliasOf", NAME),
        domain("aliasOf: \"a@b.example\"", "spec.aliasOf", NAME),
    ];
    all.extend(of_alias_domains());
    all.extend(of_gateways());
    all.extend(of_inbound());
    all.extend(of_numbers());
    all.extend(of_mailboxes());
    all
}

fn of_alias_domains() -> Vec<Bad> {
    let of =
        |more: &str, field, remedy| domain(&format!("aliasOf: a.example, {more}"), field, remedy);
    let there = "declare them in that domain";
    vec![
        of("inbound: {aliases: [{match: info, to: [x@a.example]}]}", "spec.inbound", there),
        of("inbound: {catchAll: x@a.example}", "spec.inbound", there),
        of("quota: {bytes: 1000000}", "spec.quota", "set it in that domain"),
        of("sendingLimits: {recipientsPerDay: 9}", "spec.sendingLimits", there),
        of(
            "target: relay, relay: {hosts: [a.example], recipients: {callAhead: true}}",
            "spec.target",
            "declare the server in that domain",
        ),
    ]
}

fn of_gateways() -> Vec<Bad> {
    let asks = "recipients: {callAhead: true}";
    let hosts = |hosts: &str, remedy| {
        gateway(&format!("hosts: [{hosts}], {asks}"), "spec.relay.hosts", remedy)
    };
    let like = "write it like mail.example.org, 192.0.2.1:2525 or [2001:db8::1]";
    let tls = |tls: &str, field, remedy| {
        gateway(&format!("hosts: [a.example], {asks}, tls: {{{tls}}}"), field, remedy)
    };
    let to = |recipients: &str, field, remedy| {
        gateway(&format!("hosts: [a.example], recipients: {{{recipients}}}"), field, remedy)
    };
    let (ca, list) = ("spec.relay.tls.ca", "spec.relay.recipients.list");
    let whole = "target: relay, relay: {hosts: [a.example], recipients: {callAhead: true}}";
    vec![
        domain("target: lmtp", "target", ""),
        domain("target: relay", "spec.target", "add relay, with hosts"),
        domain(
            "relay: {hosts: [a.example], recipients: {callAhead: true}}",
            "spec.relay",
            "write target: relay, or remove the server",
        ),
        hosts("", "write 1 to 10"),
        hosts(&times(11, |n| format!("h{n}.example")), "write 1 to 10"),
        hosts("a.example, a.example", "name each host once"),
        hosts("user@a.example", like),
        hosts("\"a example\"", like),
        to("", "spec.relay.recipients", "write callAhead: true, or a list of addresses"),
        to("callAhead: true, list: [a@example.org]", "spec.relay.recipients", "keep one of them"),
        to("list: [carol]", list, ADDRESS),
        to("list: [c@example.org], others: true", "others", ""),
        tls("mode: none", "mode", ""),
        tls("mode: required, ca: \"x\"", ca, "write mode: verify, or remove it"),
        tls("ca: \"-----BEGIN PRIVATE KEY-----\"", ca, "make a new key; write certificates only"),
        tls("ca: \"MIIB\"", ca, "paste it with its lines -----BEGIN CERTIFICATE-----"),
        domain(
            &format!("{whole}, inbound: {{enabled: false}}"),
            "spec.inbound.enabled",
            "remove it",
        ),
        domain(
            &format!("{whole}, inbound: {{catchAll: x@example.org}}"),
            "spec.inbound.catchAll",
            "remove it",
        ),
    ]
}

fn of_inbound() -> Vec<Bad> {
    let of = |more: &str, field, remedy| domain(&format!("inbound: {{{more}}}"), field, remedy);
    let alias = |alias: &str, field, remedy| of(&format!("aliases: [{{{alias}}}]"), field, remedy);
    let separators = "write one or several of +-_=#, or nothing for no sub-addresses";
    let (match_, before) = ("match", "write what stands before the @, such as info");
    let to = |to: &str, remedy| alias(&format!("match: info, to: [{to}]"), "to", remedy);
    vec![
        of("catchAll: nobody", "spec.inbound.catchAll", ADDRESS),
        of("catchall: x@example.org", "catchall", ""),
        of("enabled: maybe", "enabled", ""),
        of("subAddressSeparators: \"x\"", "spec.inbound.subAddressSeparators", separators),
        of("subAddressSeparators: \"+ \"", "spec.inbound.subAddressSeparators", separators),
        of("maxMessageSizeBytes: 65535", "spec.inbound.maxMessageSizeBytes", SIZE),
        of("maxMessageSizeBytes: 1073741825", "spec.inbound.maxMessageSizeBytes", SIZE),
        of("maxMessageSizeBytes: 25Mi", "maxMessageSizeBytes", ""),
        alias("match: \"\", to: [x@example.org]", match_, before),
        alias("match: a@b, to: [x@example.org]", match_, before),
        alias("match: \"*\", to: [x@example.org]", match_, before),
        alias("match: info", "to", ""),
        alias("match: info, too: [x@example.org]", "to", ""),
        to("", "write 1 to 64"),
        to(&times(65, |n| format!("u{n}@example.org")), "write 1 to 64"),
        to("somebody", ADDRESS),
    ]
}

fn of_numbers() -> Vec<Bad> {
    let mut all = Vec::new();
    for make in [domain, mailbox] {
        let limit = |limit: &str, field, remedy| {
            make(&format!("sendingLimits: {{{limit}}}"), field, remedy)
        };
        let quota =
            |quota: &str, field, remedy| make(&format!("quota: {{{quota}}}"), field, remedy);
        let (hour, day) = ("recipientsPerHour", "recipientsPerDay");
        all.extend([
            limit("recipientsPerHour: 0", hour, LIMIT),
            limit("recipientsPerDay: 10000001", day, LIMIT),
            limit("recipientsPerDay: many", day, ""),
            quota("bytes: 65535", "spec.quota.bytes", QUOTA),
            quota("bytes: 1125899906842625", "spec.quota.bytes", QUOTA),
            quota("bytes: 1Gi", "bytes", ""),
            quota("onFull: bounce", "onFull", ""),
        ]);
    }
    all
}

fn of_mailboxes() -> Vec<Bad> {
    let many = times(101, |n| format!("a{n}@example.org"));
    vec![
        addressed(""),
        addressed("alice"),
        addressed("alice@"),
        addressed("alice@exa mple.org"),
        mailbox("aliases: [info]", "spec.aliases", ADDRESS),
        mailbox(&format!("aliases: [{many}]"), "spec.aliases", "write 0 to 100"),
        mailbox("identities: [info]", "spec.identities", ADDRESS),
        mailbox(&format!("identities: [{many}]"), "spec.identities", "write 0 to 100"),
        mailbox(
            "sendOnly: true, aliases: [a@example.org]",
            "spec.aliases",
            "write them as identities",
        ),
        mailbox("storageId: abc", "spec.storageId", "is not 64 of 0-9 and a-f"),
        mailbox("suspended: perhaps", "suspended", ""),
        mailbox("sendonly: true", "sendonly", ""),
    ]
}

impl Bad {
    /// As a resource in a namespace, by itself.
    pub fn resource(&self, name: &str) -> String {
        format!(
            "apiVersion: postrider.dev/v1alpha1\nkind: {:?}\nmetadata: {{name: {name}, namespace: \
             default}}\nspec: {}\n",
            self.kind, self.spec
        )
    }

    /// What `check` says of it; `None` if it takes it.
    pub fn checked(&self) -> Option<String> {
        let mut text = self.resource("bad");
        if self.kind == Kind::Mailbox {
            text += "---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {name: \
            d, namespace: default}\nspec: {domain: example.org}\n";
        }
        let compiled = Table::from_yaml([("bad.yaml", &*text)], &Default::default());
        let problems = compiled.err()?;
        Some(problems.iter().map(|problem| format!("{problem}\n")).collect())
    }

    /// Whether a refusal says which field, and what to do.
    pub fn is_told_by(&self, refusal: &str) -> bool {
        refusal.contains(self.field) && refusal.contains(self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_refuses_each_with_field_and_remedy() {
        let all = all();
        assert!(all.len() >= 60, "{}", all.len());
        let told = |bad: &Bad| bad.checked().is_some_and(|refusal| bad.is_told_by(&refusal));
        let others: Vec<_> =
            all.iter().filter(|bad| !told(bad)).map(|bad| (bad, bad.checked())).collect();
        assert!(others.is_empty(), "{others:#?}");
    }
}
