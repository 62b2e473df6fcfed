//! The compiled table: every question a role has, answered without a file or a cluster.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mail_types::{Domain, LocalPart, Mailbox, TenantId};

use crate::identity::{Identity, key};
use crate::problem::Problem;
use crate::resolve::{DESTINATIONS_MAX, Destination};
use crate::spec::{MailDomainSpec, MailboxSpec, Metadata};
use crate::yaml::{Declared, Resource};

/// What the process says about all domains.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Where mail for `<postmaster>` without a domain goes (RFC 5321 §4.5.1); without it, to the
    /// postmaster of the first hosted domain.
    pub postmaster: Option<Mailbox>,
}

/// All hosted domains, mailboxes and logins, as one value.
#[derive(Clone, Debug, Default)]
pub struct Table {
    domains: HashMap<Domain, Hosted>,
    identities: HashMap<String, Identity>,
    postmaster: Option<Mailbox>,
}

/// A hosted domain.
#[derive(Clone, Debug)]
pub(crate) struct Hosted {
    pub(crate) inbound_enabled: bool,
    pub(crate) tenant: TenantId,
    pub(crate) max_message_size_bytes: Option<u64>,
    /// By local part in lower case.
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) catch_all: Option<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Mailbox(Mailbox),
    Alias(Vec<Mailbox>),
}

impl Table {
    /// Builds a table of everything declared, or says all that is wrong with it.
    pub fn compile(declared: &[Declared], settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut compiler = Compiler::default();
        for each in declared {
            if let Resource::MailDomain { metadata, spec } = &each.resource {
                compiler.add_domain(each, metadata, spec);
            }
        }
        for each in declared {
            if let Resource::Mailbox { metadata, spec } = &each.resource {
                compiler.add_mailbox(each, metadata, spec);
            }
        }
        for each in declared {
            if let Resource::MailDomain { spec, .. } = &each.resource {
                compiler.add_aliases(each, spec);
            }
        }
        for each in declared {
            if let Resource::MailDomain { spec, .. } = &each.resource {
                compiler.check_destinations(each, spec);
            }
        }
        let mut table = compiler.table;
        table.postmaster = settings.postmaster.clone().or_else(|| table.first_postmaster());
        if compiler.problems.is_empty() { Ok(table) } else { Err(compiler.problems) }
    }

    pub fn is_hosted(&self, domain: &Domain) -> bool {
        self.domains.contains_key(domain)
    }

    /// Whether this is the address of a mailbox that exists now.
    pub fn has_mailbox(&self, address: &Mailbox) -> bool {
        let hosted = address.domain().and_then(|domain| self.domains.get(domain));
        let name = address.local_part().as_str().to_ascii_lowercase();
        hosted.is_some_and(|h| matches!(h.entries.get(&name), Some(Entry::Mailbox(_))))
    }

    /// The hosted domains in order of their names.
    pub fn hosted_domains(&self) -> Vec<&Domain> {
        let mut domains: Vec<&Domain> = self.domains.keys().collect();
        domains.sort();
        domains
    }

    /// Whose a hosted domain is.
    pub fn tenant_of(&self, domain: &Domain) -> Option<&TenantId> {
        self.domains.get(domain).map(|hosted| &hosted.tenant)
    }

    /// The largest message that a hosted domain takes, in octets.
    pub fn max_message_size_bytes(&self, domain: &Domain) -> Option<u64> {
        self.domains.get(domain)?.max_message_size_bytes
    }

    /// Who logs in by this name: the address of a mailbox, ASCII letters in either case.
    pub fn identity(&self, login: &str) -> Option<&Identity> {
        let address = Mailbox::parse(login).ok()?;
        self.identities.get(&key(&address))
    }

    pub(crate) fn domain(&self, domain: &Domain) -> Option<&Hosted> {
        self.domains.get(domain)
    }

    pub(crate) fn postmaster(&self) -> Option<&Mailbox> {
        self.postmaster.as_ref()
    }

    fn first_postmaster(&self) -> Option<Mailbox> {
        let domain = (*self.hosted_domains().first()?).clone();
        Some(postmaster_of(domain))
    }
}

fn postmaster_of(domain: Domain) -> Mailbox {
    let local_part = LocalPart::parse("postmaster").expect("\"postmaster\" is a Dot-string");
    Mailbox::new(local_part, mail_types::Host::Domain(domain))
}

/// A table in the making, with what is wrong so far.
#[derive(Default)]
struct Compiler {
    table: Table,
    problems: Vec<Problem>,
}

fn tenant(metadata: &Metadata) -> TenantId {
    TenantId::new(metadata.namespace.as_deref().unwrap_or("default"))
}

impl Compiler {
    fn wrong(&mut self, at: &Declared, field: &str, message: String, remedy: &str) {
        self.problems.push(at.problem(field, message, remedy));
    }

    fn add_domain(&mut self, at: &Declared, metadata: &Metadata, spec: &MailDomainSpec) {
        let domain = match Domain::parse(&spec.domain) {
            Ok(domain) => domain,
            Err(error) => {
                let message = format!("{:?}: {error}", spec.domain);
                return self.wrong(at, "spec.domain", message, "write a name such as example.org");
            }
        };
        if spec.inbound.max_message_size_bytes == Some(0) {
            let remedy = "leave it out to use the listener's limit";
            self.wrong(at, "spec.inbound.maxMessageSizeBytes", "is zero".into(), remedy);
        }
        let hosted = Hosted {
            inbound_enabled: spec.inbound.enabled,
            tenant: tenant(metadata),
            max_message_size_bytes: spec.inbound.max_message_size_bytes,
            entries: BTreeMap::new(),
            catch_all: None,
        };
        if self.table.domains.contains_key(&domain) {
            let message = format!("{domain} is declared twice");
            return self.wrong(at, "spec.domain", message, "keep one of the MailDomains");
        }
        self.table.domains.insert(domain, hosted);
    }

    fn add_mailbox(&mut self, at: &Declared, metadata: &Metadata, spec: &MailboxSpec) {
        let Some(address) = self.own_address(at, "spec.address", &spec.address, metadata) else {
            return;
        };
        let mut addresses = vec![key(&address)];
        self.add_entry(at, "spec.address", &address, Entry::Mailbox(address.clone()));
        for (n, alias) in spec.aliases.iter().enumerate() {
            let field = format!("spec.aliases[{n}]");
            if let Some(alias) = self.own_address(at, &field, alias, metadata) {
                addresses.push(key(&alias));
                self.add_entry(at, &field, &alias, Entry::Alias(vec![address.clone()]));
            }
        }
        for (n, password) in spec.passwords.iter().enumerate() {
            let parsed = argon2::PasswordHash::new(&password.hash);
            if !parsed.is_ok_and(|hash| hash.algorithm.as_str().starts_with("argon2")) {
                let message = format!("password {:?} is not an argon2 hash", password.name);
                let remedy = "run `postrider mailbox hash-password` and paste what it prints";
                self.wrong(at, &format!("spec.passwords[{n}].hash"), message, remedy);
            }
        }
        let hashes = spec.passwords.iter().map(|password| password.hash.clone());
        let hashes = if spec.suspended { Vec::new() } else { hashes.collect() };
        let login = address.to_string();
        let identity = Identity { login, tenant: tenant(metadata), hashes, addresses };
        self.table.identities.insert(key(&address), identity);
    }

    /// An address in a hosted domain of the same tenant.
    fn own_address(
        &mut self,
        at: &Declared,
        field: &str,
        text: &str,
        metadata: &Metadata,
    ) -> Option<Mailbox> {
        let address = self.address(at, field, text)?;
        let owner = address.domain().and_then(|domain| self.table.tenant_of(domain));
        match owner {
            Some(owner) if *owner == tenant(metadata) => Some(address),
            Some(_) => {
                let message = format!("{} belongs to another namespace", address.host());
                self.wrong(at, field, message, "declare it in the MailDomain's namespace");
                None
            }
            None => {
                let message = format!("{} is not a hosted domain", address.host());
                self.wrong(at, field, message, "declare a MailDomain for it");
                None
            }
        }
    }

    fn address(&mut self, at: &Declared, field: &str, text: &str) -> Option<Mailbox> {
        match Mailbox::parse(text) {
            Ok(address) => Some(address),
            Err(error) => {
                let message = format!("{text:?}: {error}");
                self.wrong(at, field, message, "write an address such as alice@example.org");
                None
            }
        }
    }

    fn add_entry(&mut self, at: &Declared, field: &str, address: &Mailbox, entry: Entry) {
        let hosted = address.domain().and_then(|domain| self.table.domains.get_mut(domain));
        let name = address.local_part().as_str().to_ascii_lowercase();
        let twice = hosted.is_some_and(|hosted| hosted.entries.insert(name, entry).is_some());
        if twice {
            let message = format!("{address} is declared twice");
            self.wrong(at, field, message, "keep one mailbox or alias of that name");
        }
    }

    fn add_aliases(&mut self, at: &Declared, spec: &MailDomainSpec) {
        let Ok(domain) = Domain::parse(&spec.domain) else { return };
        for (n, alias) in spec.inbound.aliases.iter().enumerate() {
            let field = format!("spec.inbound.aliases[{n}]");
            let text = format!("{}@{domain}", alias.local_part);
            let Some(address) = self.address(at, &format!("{field}.match"), &text) else {
                continue;
            };
            if alias.to.is_empty() || alias.to.len() > 64 {
                let message = format!("{} addresses", alias.to.len());
                self.wrong(at, &format!("{field}.to"), message, "write 1 to 64 addresses");
            }
            let targets = alias.to.iter().enumerate();
            let targets = targets
                .filter_map(|(m, to)| self.address(at, &format!("{field}.to[{m}]"), to))
                .collect();
            self.add_entry(at, &format!("{field}.match"), &address, Entry::Alias(targets));
        }
        if let Some(text) = &spec.inbound.catch_all
            && let Some(target) = self.address(at, "spec.inbound.catchAll", text)
            && let Some(hosted) = self.table.domains.get_mut(&domain)
        {
            hosted.catch_all = Some(Entry::Alias(vec![target]));
        }
    }

    /// Every alias leads somewhere, and postmaster does (RFC 5321 §4.5.1).
    fn check_destinations(&mut self, at: &Declared, spec: &MailDomainSpec) {
        let Ok(domain) = Domain::parse(&spec.domain) else { return };
        let aliases = spec.inbound.aliases.iter().enumerate();
        let aliases = aliases.flat_map(|(n, alias)| {
            let field = move |m| format!("spec.inbound.aliases[{n}].to[{m}]");
            alias.to.iter().enumerate().map(move |(m, to)| (field(m), to))
        });
        let catch_all =
            spec.inbound.catch_all.iter().map(|to| ("spec.inbound.catchAll".into(), to));
        for (field, to) in aliases.chain(catch_all) {
            let Ok(target) = Mailbox::parse(to) else { continue };
            let reached = self.reached(&target);
            if reached == 0 {
                let message = format!("{target} leads nowhere: no such mailbox, or a loop");
                self.wrong(at, &field, message, "declare the mailbox, or name another address");
            } else if reached >= DESTINATIONS_MAX {
                let message = format!("{target} leads to {DESTINATIONS_MAX} addresses or more");
                self.wrong(at, &field, message, "use a mailing list");
            }
        }
        if spec.inbound.enabled && self.reached(&postmaster_of(domain.clone())) == 0 {
            let message = format!("postmaster@{domain} goes nowhere");
            let remedy = "add an alias: {match: postmaster, to: [somebody]} (RFC 5321 §4.5.1)";
            self.wrong(at, "spec.inbound.aliases", message, remedy);
        }
    }

    fn reached(&self, address: &Mailbox) -> usize {
        let mut found: Vec<Destination> = Vec::new();
        self.table.expand(address, &mut BTreeSet::new(), &mut found);
        found.len()
    }
}
