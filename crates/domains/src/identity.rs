//! Who may log in, and under which addresses.

use std::fmt;

use mail_types::{Domain, LocalPart, Mailbox, TenantId};
use senders::Limits;

use crate::separators::tag;
use crate::table::Table;

/// Somebody who may send. The hashes are not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The mailbox's address.
    pub(crate) login: String,
    pub(crate) tenant: TenantId,
    pub(crate) hashes: Vec<String>,
    /// Of the passwords that have these hashes, in the same order.
    pub(crate) password_names: Vec<String>,
    /// What it may send, as far as it was declared.
    pub(crate) sending_limits: Limits,
    /// The keys of the addresses it owns.
    pub(crate) addresses: Vec<String>,
    /// Domains of which it may send as any address.
    pub(crate) domains: Vec<Domain>,
}

impl Identity {
    pub fn login(&self) -> &str {
        &self.login
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Any that is of the password lets in ([`crate::password::is_match`]). At least one.
    pub fn password_hashes(&self) -> &[String] {
        &self.hashes
    }

    /// The passwords by their names, with their hashes. Of what an older version published names
    /// are not known.
    pub fn passwords(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.password_names.iter().map(String::as_str);
        names.zip(self.hashes.iter().map(String::as_str))
    }

    /// How many recipients it may send to, as far as that was declared.
    pub fn sending_limits(&self) -> Limits {
        self.sending_limits
    }

    /// Whether the address is its own: its mailbox, one of the mailbox's aliases or identities, or
    /// a sub-address of these that is not somebody else's. Aliases of the domain are nobody's own.
    pub fn may_send_as(&self, address: &Mailbox, table: &Table) -> bool {
        let name = name(address.local_part());
        let owns = |name: &str| self.owns(&format!("{name}@{}", address.host()));
        if owns(&name) {
            return true;
        }
        let Some(domain) = address.domain() else { return false };
        if self.domains.contains(domain) {
            return true;
        }
        let Some(names) = table.domain(table.canonical(domain)) else { return false };
        // The longest name that somebody has is whose it is.
        let mut known = names.separators.bases(&name);
        let known = known.find(|base| owns(base) || names.entries.contains_key(*base));
        !names.entries.contains_key(&*name) && known.is_some_and(owns)
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

/// What stands behind the separator in `used`, a sub-address of the mailbox `own` (RFC 5233 §1).
pub fn detail<'a>(used: &'a Mailbox, own: &Mailbox) -> Option<&'a str> {
    let tag = tag(used.local_part().as_str(), own.local_part().as_str())?;
    // Separators have one octet.
    tag.get(1..).filter(|detail| !detail.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::separators::Separators;
    use crate::table::{Declaration, Entry};

    #[test]
    fn details_of_sub_addresses() {
        let detail_of = |used: &str, own: &str| {
            let (used, own) = (used.parse().unwrap(), own.parse().unwrap());
            detail(&used, &own).map(str::to_owned)
        };
        assert_eq!(detail_of("alice+Lists@a.example", "alice@a.example").as_deref(), Some("Lists"));
        assert_eq!(detail_of("a+b+c@a.example", "a@a.example").as_deref(), Some("b+c"));
        assert_eq!(detail_of("a+b-c@a.example", "a+b@a.example").as_deref(), Some("c"));
        for (used, own) in [
            ("alice@a.example", "alice@a.example"),
            ("alice+@a.example", "alice@a.example"),
            ("A+b@a.example", "a+b@a.example"),
        ] {
            assert_eq!(detail_of(used, own), None, "{used}");
        }
    }

    #[test]
    fn own_addresses_only() {
        let identity = Identity {
            login: "alice@a.example".into(),
            tenant: TenantId::new("t"),
            hashes: vec!["secret".into()],
            password_names: vec!["phone".into()],
            sending_limits: Limits::default(),
            addresses: vec!["alice@a.example".into(), "sales@b.example".into()],
            domains: vec![Domain::parse("all.example").unwrap()],
        };
        let mut table = Table::default();
        let declare = |table: &mut Table, domain: &str, separators: &str, names: &[&str]| {
            let mut declaration = Declaration {
                separators: Separators::try_from(separators.to_owned()).unwrap(),
                ..Declaration::default()
            };
            for name in names {
                declaration.entries.insert((*name).into(), Entry::Mailbox(None));
            }
            table.domains.insert(Domain::parse(domain).unwrap(), Arc::new(declaration));
        };
        declare(&mut table, "a.example", "+", &["alice", "alice+bob"]);
        declare(&mut table, "b.example", "-+", &["sales-team"]);
        for (address, may) in [
            ("alice@a.example", true),
            ("ALICE@A.example", true),
            ("alice+tag@a.example", true),
            ("\"alice\"@a.example", true),
            ("sales+x@b.example", true),
            ("sales-x@b.example", true),
            ("sales-team@b.example", false),
            ("sales-team-x@b.example", false),
            ("alice-x@a.example", false),
            ("alice+bob@a.example", false),
            ("alice+bob+x@a.example", false),
            ("alice+tag@c.example", false),
            ("anything@all.example", true),
            ("\"\"@all.example", true),
            ("x@sub.all.example", false),
            ("\"x@all.example\"@c.example", false),
            ("alice@b.example", false),
            ("+alice@a.example", false),
            ("alice@sub.a.example", false),
            ("\"alice@a.example\"@b.example", false),
            ("\"alice+x@a.example\"@c.example", false),
            ("alic\u{435}@a.example", false),
        ] {
            assert_eq!(identity.may_send_as(&address.parse().unwrap(), &table), may, "{address}");
        }
        assert!(!format!("{identity:?}").contains("secret"));
    }
}
