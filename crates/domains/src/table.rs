//! The compiled table: every question a role has, answered without a file or a cluster.

use std::collections::{BTreeMap, HashMap};

use mail_types::{Domain, Mailbox, TenantId};

use crate::identity::{Identity, key};

/// What the process says about all domains.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Where mail for `<postmaster>` without a domain goes (RFC 5321 §4.5.1), here or elsewhere;
    /// without it, to the postmaster of the domain that was declared first.
    pub postmaster: Option<Mailbox>,
}

/// All hosted domains, mailboxes and logins, as one value that never changes.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub(crate) domains: HashMap<Domain, Declaration>,
    pub(crate) identities: BTreeMap<String, Identity>,
    pub(crate) postmaster: Option<Mailbox>,
}

/// What was declared for a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Declaration {
    /// Whether its mail is received here.
    pub(crate) inbound: bool,
    pub(crate) tenant: TenantId,
    pub(crate) max_message_size_bytes: Option<u64>,
    /// By local part in lower case.
    pub(crate) entries: HashMap<String, Entry>,
    pub(crate) catch_all: Option<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Mailbox(Mailbox),
    Alias(Vec<Mailbox>),
}

impl Table {
    /// Whether mail for the domain is received here.
    pub fn is_hosted(&self, domain: &Domain) -> bool {
        self.domains.get(domain).is_some_and(|declaration| declaration.inbound)
    }

    /// The domains whose mail is received here, in order of their names.
    pub fn hosted_domains(&self) -> Vec<&Domain> {
        let mut domains: Vec<&Domain> =
            self.domains.keys().filter(|domain| self.is_hosted(domain)).collect();
        domains.sort();
        domains
    }

    /// How many mailboxes there are.
    pub fn mailboxes(&self) -> usize {
        let entries = self.domains.values().flat_map(|declaration| declaration.entries.values());
        entries.filter(|entry| matches!(entry, Entry::Mailbox(_))).count()
    }

    /// Whose a domain is.
    pub fn tenant_of(&self, domain: &Domain) -> Option<&TenantId> {
        self.domains.get(domain).map(|declaration| &declaration.tenant)
    }

    /// The largest message that a domain takes, in octets.
    pub fn max_message_size_bytes(&self, domain: &Domain) -> Option<u64> {
        self.domains.get(domain)?.max_message_size_bytes
    }

    /// Who logs in by this name: the address of a mailbox that has a password and is not
    /// suspended, ASCII letters in either case.
    pub fn identity(&self, login: &str) -> Option<&Identity> {
        let address = Mailbox::parse(login).ok()?;
        self.identities.get(&key(&address))
    }

    /// Somebody whose passwords take the place of those of a login that nobody has: refusing it is
    /// as much work as refusing a wrong password, and always the same work for the same login.
    pub fn stand_in(&self, login: &str) -> Option<&Identity> {
        let login = login.to_ascii_lowercase();
        let next = self.identities.range(login..).next();
        next.or_else(|| self.identities.first_key_value()).map(|(_, identity)| identity)
    }

    /// Where `<postmaster>` leads.
    pub fn postmaster(&self) -> Option<&Mailbox> {
        self.postmaster.as_ref()
    }

    pub(crate) fn domain(&self, domain: &Domain) -> Option<&Declaration> {
        self.domains.get(domain)
    }
}
