//! Somebody who receives, and may log in to send.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules::{address_rule, addresses_rule, at_most, identities_rule, name_rule, rule};
use super::sizes::{Quota, SendingLimits};
use super::status::Status;

/// A mailbox of a tenant.
#[derive(CustomResource, Clone, PartialEq, Debug, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "postrider.dev",
    version = "v1alpha1",
    kind = "Mailbox",
    plural = "mailboxes",
    shortname = "mb",
    category = "postrider",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    doc = "Somebody who receives, and may log in to send",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.address"}"#,
    printcolumn = r#"{"name":"Ready","type":"string",
        "jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string",
        "jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rule("self.address == oldSelf.address",
        "spec.address: a Mailbox is of one address for good; make another one, with this one's \
         storageId to keep its mail"),
    validation = rule("!self.sendOnly || !has(self.aliases) || size(self.aliases) == 0",
        "spec.aliases: it receives for them, and with sendOnly it does not receive; write them as \
         identities"),
)]
pub(crate) struct MailboxSpec {
    /// Its address, which is also its login; for good.
    #[x_kube(validation = address_rule("spec.address"))]
    #[schemars(length(max = 320))]
    pub(crate) address: String,
    /// Other addresses that it receives for and may send as; at most 100.
    #[x_kube(
        validation = at_most("spec.aliases", 100),
        validation = addresses_rule("spec.aliases"),
    )]
    #[schemars(length(max = 200), inner(length(max = 320)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aliases: Vec<String>,
    /// Other addresses that it may send as and does not receive for, in domains of its namespace:
    /// `sales@example.org`, or `*@example.org` for all of a domain. At most 100.
    #[x_kube(
        validation = at_most("spec.identities", 100),
        validation = identities_rule("spec.identities"),
    )]
    #[schemars(length(max = 200), inner(length(max = 320)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) identities: Vec<String>,
    /// Takes no mail: for programs that only send.
    #[serde(default)]
    pub(crate) send_only: bool,
    /// Any of them lets in; without one nobody can log in. At most 10.
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = at_most("spec.passwords", 10),
    )]
    #[schemars(length(max = 20))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) passwords: Vec<Password>,
    /// Refuses logins; mail is still received.
    #[serde(default)]
    pub(crate) suspended: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quota: Option<Quota>,
    /// Where its mail is kept: for a mailbox that had another address, the id that it has from
    /// there. 64 of `0-9a-f`, of a domain of its namespace; without it, made of the address.
    #[x_kube(validation = rule("self.matches('^[0-9a-f]{64}$')",
        "spec.storageId: is not 64 of 0-9 and a-f; write what `postrider domain mailbox` prints"))]
    #[schemars(length(max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) storage_id: Option<String>,
    /// How many recipients it may send to, where it is another number than that of the
    /// installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sending_limits: Option<SendingLimits>,
}

/// A password, in a Secret of the same namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Password {
    /// What it is for, such as `phone`; unique in its mailbox.
    #[schemars(length(max = 64))]
    pub(crate) name: String,
    pub(crate) secret_ref: SecretRef,
}

/// A field of a Secret: the password's hash, as `postrider mailbox hash-password` prints it, or
/// another of those that the files of domains may have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretRef {
    #[x_kube(validation = name_rule("spec.passwords.secretRef.name"))]
    #[schemars(length(max = 253))]
    pub(crate) name: String,
    #[schemars(length(max = 253))]
    #[serde(default = "key")]
    pub(crate) key: String,
}

fn key() -> String {
    "hash".to_owned()
}
