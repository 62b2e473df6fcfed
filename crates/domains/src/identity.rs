//! Who may log in, and under which addresses.

use std::fmt;

use mail_types::{LocalPart, Mailbox, TenantId};

/// Somebody who may send. The hashes are not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The mailbox's address.
    pub(crate) login: String,
    pub(crate) tenant: TenantId,
    pub(crate) hashes: Vec<String>,
    /// The keys of the addresses it owns.
    pub(crate) addresses: Vec<String>,
}

impl Identity {
    pub fn login(&self) -> &str {
        &self.login
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// PHC strings; any that verifies lets in. At least one.
    pub fn password_hashes(&self) -> &[String] {
        &self.hashes
    }

    /// Whether the address is its own: its mailbox, one of the mailbox's aliases, or a sub-address
    /// of these. Aliases of the domain are nobody's own.
    pub fn may_send_as(&self, address: &Mailbox) -> bool {
        self.owns(&key(address)) || base_key(address).is_some_and(|base| self.owns(&base))
    }

    fn owns(&self, key: &str) -> bool {
        self.addresses.iter().any(|own| own == key)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("login", &self.login).finish_non_exhaustive()
    }
}

/// The form in which hosted local parts are compared: ASCII letters in lower case, no more (RFC
/// 5321 §2.4 leaves it to the host; UTF-8 is compared as it is).
pub(crate) fn name(local_part: &LocalPart) -> String {
    local_part.as_str().to_ascii_lowercase()
}

/// The same with the domain. The last `@` separates them, for a domain has none.
pub(crate) fn key(address: &Mailbox) -> String {
    format!("{}@{}", name(address.local_part()), address.host())
}

/// The key of the address that this is a sub-address of.
fn base_key(address: &Mailbox) -> Option<String> {
    let (base, _) = split_tag(address.local_part().as_str())?;
    Some(format!("{}@{}", base.to_ascii_lowercase(), address.host()))
}

/// `user+tag` as `user` and `+tag` (RFC 5233 §1).
pub(crate) fn split_tag(local_part: &str) -> Option<(&str, &str)> {
    let at = local_part.find('+').filter(|&at| at > 0)?;
    Some(local_part.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_only() {
        let identity = Identity {
            login: "alice@a.example".into(),
            tenant: TenantId::new("t"),
            hashes: vec!["secret".into()],
            addresses: vec!["alice@a.example".into(), "sales@b.example".into()],
        };
        for (address, may) in [
            ("alice@a.example", true),
            ("ALICE@A.example", true),
            ("alice+tag@a.example", true),
            ("\"alice\"@a.example", true),
            ("sales+x@b.example", true),
            ("alice@b.example", false),
            ("+alice@a.example", false),
            ("alice@sub.a.example", false),
            ("\"alice@a.example\"@b.example", false),
            ("\"alice+x@a.example\"@c.example", false),
            ("alic\u{435}@a.example", false),
        ] {
            assert_eq!(identity.may_send_as(&address.parse().unwrap()), may, "{address}");
        }
        assert!(!format!("{identity:?}").contains("secret"));
    }
}
