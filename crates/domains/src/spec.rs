//! The resources as people write them: `apiVersion: postrider.dev/v1alpha1`.

use std::fmt;

use senders::Limits;
use serde::{Deserialize, Serialize};

use crate::storage::Quota;

/// The only version there is.
pub const API_VERSION: &str = "postrider.dev/v1alpha1";

/// What names a resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique among the resources of its kind and namespace.
    pub name: String,
    /// The tenant; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A domain of ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MailDomainSpec {
    /// In A-labels or U-labels.
    pub domain: String,
    /// Another domain of the same namespace, whose mailboxes and aliases are this one's as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<String>,
    /// Who keeps its mail.
    #[serde(default)]
    pub target: MailTarget,
    /// With the target `relay`, and only with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    #[serde(default)]
    pub inbound: Inbound,
    /// Of each of its mailboxes that does not say otherwise.
    #[serde(default, skip_serializing_if = "Quota::is_nothing")]
    pub quota: Quota,
    /// How many recipients all its mailboxes together may send to, where it is another number than
    /// the process' own. Each 1 to 10000000.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub sending_limits: Limits,
}

/// Where the mail of a domain ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MailTarget {
    /// In mailboxes here.
    #[default]
    Mailboxes,
    /// At a server of its own: it is a gateway domain.
    Relay,
}

/// The server of a gateway domain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Relay {
    /// 1 to 10, tried in this order: a name or an address, with or without a port, such as
    /// `mail.example.org:2525`. They may be private ones.
    pub hosts: Vec<String>,
    pub recipients: RelayRecipients,
    #[serde(default)]
    pub tls: RelayTls,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RelayAuth>,
}

/// For whom mail is taken: a list or the server's word, one of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RelayRecipients {
    /// Addresses of the domain, at most 10000. A sub-address is one of its own: the server may not
    /// know any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<String>,
    /// The server is asked, and what it says is remembered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub call_ahead: bool,
}

/// How much TLS its server is spoken to with.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RelayTls {
    pub mode: RelayTlsMode,
    /// PEM certificates of the authorities that are trusted, and no others are. With `verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// How much TLS must be had.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RelayTlsMode {
    /// Or no mail is handed over; the certificate must be valid for the host's name.
    #[default]
    Verify,
    /// Or no mail is handed over; any certificate.
    Required,
    /// When it is offered; in clear when it is not, or fails.
    Opportunistic,
}

/// A login at its server, by AUTH.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelayAuth {
    pub user: String,
    /// A file of this name in the directory of the namespace, below `delivery.gatewayPasswordsDir`.
    pub password_file: String,
}

/// How mail for the domain is taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Inbound {
    /// When false, the domain's mail is received elsewhere, where its MX records say; its users
    /// may still send from here.
    pub enabled: bool,
    /// Where mail goes whose local part is neither a mailbox nor an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_all: Option<String>,
    /// At most 500.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Alias>,
    /// What may separate a mailbox's name from what its owner adds, as in `alice+lists`: each of
    /// these characters, out of `+-_=#`. With none there are no sub-addresses.
    pub sub_address_separators: String,
    /// Octets, from 65536 (RFC 5321 §4.5.3.1.7); larger messages are refused with `552 5.3.4`. The
    /// listener's limit holds as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_size_bytes: Option<u64>,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            enabled: true,
            catch_all: None,
            aliases: Vec::new(),
            sub_address_separators: "+".to_owned(),
            max_message_size_bytes: None,
        }
    }
}

/// Another name for one or more addresses, here or elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alias {
    /// A local part of the domain.
    #[serde(rename = "match")]
    pub local_part: String,
    /// Addresses, 1 to 64.
    pub to: Vec<String>,
}

/// A mailbox: somebody who receives, and may log in to send.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MailboxSpec {
    /// Its address, which is also its login.
    pub address: String,
    /// Other addresses that it receives for and may send as; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Other addresses that it may send as and does not receive for, in domains of its namespace:
    /// `sales@example.org`, or `*@example.org` for all of a domain. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Takes no mail: for programs that only send.
    #[serde(default)]
    pub send_only: bool,
    /// Any of them lets in; without one nobody can log in. At most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passwords: Vec<Password>,
    /// Refuses logins; mail is still received.
    #[serde(default)]
    pub suspended: bool,
    #[serde(default, skip_serializing_if = "Quota::is_nothing")]
    pub quota: Quota,
    /// Where its mail is kept: for a mailbox that had another address, the id that it has from
    /// there. 64 of `0-9a-f`, of a domain of its namespace; without it, made of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_id: Option<String>,
    /// How many recipients it may send to, where it is another number than the process' own. Each 1
    /// to 10000000.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub sending_limits: Limits,
}

/// A password, by its hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Password {
    /// What it is for, such as `phone`; unique in its mailbox.
    pub name: String,
    /// `$argon2id$…`, which `postrider mailbox hash-password` prints; or one made elsewhere, of
    /// SHA512-CRYPT (`$6$…`) or bcrypt (`$2y$…`), also with Dovecot's `{SCHEME}` before it.
    pub hash: String,
}

impl fmt::Debug for Password {
    /// Names the password without its hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").field("name", &self.name).finish_non_exhaustive()
    }
}
