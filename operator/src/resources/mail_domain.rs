//! A domain whose mail is received or sent here.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{address_rule, addresses_rule, domain_rule, name_rule, one_to, rule};
use super::sizes::{Quota, SendingLimits};
use super::status::Status;

/// A domain of a tenant.
#[derive(CustomResource, Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "postrider.dev",
    version = "v1alpha1",
    kind = "MailDomain",
    plural = "maildomains",
    shortname = "md",
    category = "postrider",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    doc = "A domain whose mail is received or sent here",
    printcolumn = r#"{"name":"Domain","type":"string","jsonPath":".spec.domain"}"#,
    printcolumn = r#"{"name":"Ready","type":"string",
        "jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string",
        "jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rule("self.domain == oldSelf.domain",
        "spec.domain: a MailDomain is of one domain for good; make another one for another"),
    validation = rule("!has(self.relay) || self.target == 'relay'",
        "spec.relay: a server is named, and mail stays in mailboxes here; write target: relay, or \
         remove the server"),
    validation = rule("has(self.relay) || self.target != 'relay'",
        "spec.target: mail is to be handed to a server, and none is named; add relay, with hosts: \
         [a host] and recipients: {callAhead: true}"),
    validation = rule("!has(self.aliasOf) || self.target == 'mailboxes'",
        "spec.target: its mail goes where that of spec.aliasOf goes; declare the server in that \
        domain"),
    validation = rule("!has(self.aliasOf) || !has(self.quota)",
        "spec.quota: it has the mailboxes of spec.aliasOf, and none of its own; set it in that \
        domain"),
    validation = rule("!has(self.aliasOf) || !has(self.sendingLimits)",
        "spec.sendingLimits: it has the mailboxes of spec.aliasOf; declare them in that domain"),
    validation = rule("!has(self.aliasOf) || !has(self.inbound.catchAll) && \
         (!has(self.inbound.aliases) || size(self.inbound.aliases) == 0)",
        "spec.inbound: it has the names of spec.aliasOf, and none of its own; declare them in \
        that domain"),
    validation = rule("self.target != 'relay' || self.inbound.enabled",
        "spec.inbound.enabled: mail that is received elsewhere is not handed over from here; \
        remove it, or the target"),
    validation = rule("self.target != 'relay' || !has(self.inbound.catchAll)",
        "spec.inbound.catchAll: the server takes what is left, or refuses it; remove it"),
)]
pub(crate) struct MailDomainSpec {
    /// In A-labels or U-labels; for good.
    #[x_kube(validation = domain_rule("spec.domain"))]
    #[schemars(length(max = 253))]
    pub(crate) domain: String,
    /// Another domain of the same namespace, whose mailboxes and aliases are this one's as well.
    #[x_kube(validation = domain_rule("spec.aliasOf"))]
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alias_of: Option<String>,
    /// Who keeps its mail: mailboxes here, or a server of its own.
    #[serde(default)]
    pub(crate) target: MailTarget,
    /// The server of its own. With the target `relay`, and only with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) relay: Option<Relay>,
    #[serde(default)]
    pub(crate) inbound: Inbound,
    /// Of each of its mailboxes that does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quota: Option<Quota>,
    /// How many recipients all its mailboxes together may send to, where it is another number than
    /// that of the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sending_limits: Option<SendingLimits>,
    /// Its own certificate, for names of the domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Tls>,
    /// What becomes of mailboxes and waiting mail when the MailDomain is deleted.
    #[serde(default)]
    pub(crate) deletion_policy: DeletionPolicy,
}

/// Where the certificate is from that clients are shown who ask for a name of the domain, such as
/// `mail.example.org`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tls {
    pub(crate) secret_ref: CertificateRef,
}

/// A Secret of the same namespace with `tls.crt` and `tls.key`, as those of type
/// `kubernetes.io/tls` have them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
pub(crate) struct CertificateRef {
    #[x_kube(validation = name_rule("spec.tls.secretRef.name"))]
    #[schemars(length(max = 253))]
    pub(crate) name: String,
}

/// Where the mail of a domain ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum MailTarget {
    #[default]
    Mailboxes,
    Relay,
}

/// What is kept of a domain that is deleted. What is not done yet cannot be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) enum DeletionPolicy {
    /// Mailboxes and waiting mail.
    #[default]
    Retain,
}

/// The server of a gateway domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Relay {
    /// 1 to 10, tried in this order: a name or an address, with or without a port, such as
    /// `mail.example.org:2525`. They may be private ones.
    #[x_kube(
        validation = one_to("spec.relay.hosts", 10),
        validation = rule("self.all(host, self.exists_one(other, other == host))",
            "spec.relay.hosts: has a host twice; name each host once"),
        validation = rule("self.all(host, host.matches('^[^\\\\s@/]+$'))",
            "spec.relay.hosts: has what is no host; write it like mail.example.org, \
            192.0.2.1:2525 or [2001:db8::1]"),
    )]
    #[schemars(length(max = 100), inner(length(max = 260)))]
    pub(crate) hosts: Vec<String>,
    pub(crate) recipients: RelayRecipients,
    #[serde(default)]
    pub(crate) tls: RelayTls,
}

/// For whom mail is taken: a list or the server's word, one of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rule("has(self.list) && size(self.list) > 0 || self.callAhead",
        "spec.relay.recipients: it is not said for whom mail is taken; write callAhead: true, or a \
         list of addresses"),
    validation = rule("!has(self.list) || size(self.list) == 0 || !self.callAhead",
        "spec.relay.recipients: there are a list and callAhead; keep one of them"),
)]
pub(crate) struct RelayRecipients {
    /// Addresses of the domain, at most 10000.
    #[x_kube(validation = addresses_rule("spec.relay.recipients.list"))]
    #[schemars(length(max = 10000), inner(length(max = 320)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) list: Vec<String>,
    /// The server is asked, and what it says is remembered.
    #[serde(default)]
    pub(crate) call_ahead: bool,
}

/// How much TLS its server is spoken to with.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rule("!has(self.ca) || self.mode == 'verify'",
    "spec.relay.tls.ca: with this mode no certificate is looked at; write mode: verify, or \
    remove it"))]
pub(crate) struct RelayTls {
    #[serde(default)]
    pub(crate) mode: RelayTlsMode,
    /// PEM certificates of the authorities that are trusted, and no others are. With `verify`.
    #[x_kube(
        validation = rule("!self.contains('PRIVATE KEY')",
            "spec.relay.tls.ca: holds a private key, which is now known to all who read this; \
            make a new key; write certificates only"),
        validation = rule("self.contains('-----BEGIN CERTIFICATE-----')",
            "spec.relay.tls.ca: holds no certificate in PEM; paste it with its lines -----BEGIN \
             CERTIFICATE----- and -----END CERTIFICATE-----"),
    )]
    #[schemars(length(max = 65536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
}

/// How much TLS must be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RelayTlsMode {
    /// Or no mail is handed over; the certificate must be valid for the host's name.
    #[default]
    Verify,
    /// Or no mail is handed over; any certificate.
    Required,
    /// When it is offered; in clear when it is not, or fails.
    Opportunistic,
}

/// How mail for the domain is taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inbound {
    /// When false, the domain's mail is received elsewhere, where its MX records say; its users
    /// may still send from here.
    #[serde(default = "enabled")]
    pub(crate) enabled: bool,
    /// Where mail goes whose local part is neither a mailbox nor an alias.
    #[x_kube(validation = address_rule("spec.inbound.catchAll"))]
    #[schemars(length(max = 320))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) catch_all: Option<String>,
    /// At most 500.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["match".into()]))]
    #[schemars(length(max = 500))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aliases: Vec<Alias>,
    /// What may separate a mailbox's name from what its owner adds, as in `alice+lists`: each of
    /// these characters, out of `+-_=#`. With none there are no sub-addresses.
    #[x_kube(validation = rule("self.matches('^[-+_=#]*$')",
        "spec.inbound.subAddressSeparators: has what separates nothing; write one or several of \
         +-_=#, or nothing for no sub-addresses"))]
    #[schemars(length(max = 5))]
    #[serde(default = "separators")]
    pub(crate) sub_address_separators: String,
    /// Octets; larger messages are refused with `552 5.3.4`. The limit of the installation holds as
    /// well.
    #[x_kube(validation = rule("self >= 65536 && self <= 1073741824",
        "spec.inbound.maxMessageSizeBytes: is out of range; write 65536 to 1073741824, or leave it \
         out for the listener's limit"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_message_size_bytes: Option<i64>,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            enabled: enabled(),
            catch_all: None,
            aliases: Vec::new(),
            sub_address_separators: separators(),
            max_message_size_bytes: None,
        }
    }
}

fn enabled() -> bool {
    true
}

fn separators() -> String {
    "+".to_owned()
}

/// Another name for one or more addresses, here or elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Alias {
    /// A local part of the domain.
    #[x_kube(validation = rule("size(self) > 0 && !self.contains('@') && self != '*'",
        "spec.inbound.aliases.match: is no local part; write what stands before the @, such as \
        info; for everything else there is catchAll"))]
    #[schemars(length(max = 64))]
    #[serde(rename = "match")]
    pub(crate) local_part: String,
    /// Addresses, 1 to 64.
    #[x_kube(
        validation = one_to("spec.inbound.aliases.to", 64),
        validation = addresses_rule("spec.inbound.aliases.to"),
    )]
    #[schemars(length(max = 100), inner(length(max = 320)))]
    pub(crate) to: Vec<String>,
}
