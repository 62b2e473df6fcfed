//! Who may log in, and under which addresses.

use mail_types::{Mailbox, TenantId};

/// Somebody who may send. The hashes are not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The mailbox's address.
    pub(crate) login: String,
    pub(crate) tenant: TenantId,
    pub(crate) hashes: Vec<String>,
    /// Lower-case keys of the addresses it owns.
    pub(crate) addresses: Vec<String>,
}

impl Identity {
    pub fn login(&self) -> &str {
        &self.login
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// PHC strings; any that verifies lets in. Empty while suspended.
    pub fn password_hashes(&self) -> &[String] {
        &self.hashes
    }

    /// Whether the address is its own: its mailbox, one of its aliases, or a sub-address of these.
    pub fn may_send_as(&self, address: &Mailbox) -> bool {
        let key = key(address);
        let base = key.split_once('@').map(|(local, domain)| {
            let local = local.split_once('+').map_or(local, |(base, _)| base);
            format!("{local}@{domain}")
        });
        self.addresses.iter().any(|own| *own == key || Some(own) == base.as_ref())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("login", &self.login).finish_non_exhaustive()
    }
}

/// The form in which hosted addresses are compared: ASCII letters in lower case.
pub(crate) fn key(address: &Mailbox) -> String {
    format!("{}@{}", address.local_part().as_str().to_ascii_lowercase(), address.host())
}
