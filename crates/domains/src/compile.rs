//! The rules: from what was declared to a table, or to all that is wrong with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use mail_types::{Domain, Host, LocalPart, Mailbox, MailboxError, TenantId};
use senders::Limits;

use crate::graph;
use crate::identity::{key, name};
use crate::password;
use crate::problem::{Problem, Source};
use crate::row::Login;
use crate::scram;
use crate::separators::Separators;
use crate::spec::{Alias, Inbound, MailDomainSpec, MailboxSpec, Metadata, Password};
use crate::storage::{self, Keeping, Quota, StorageId};
use crate::table::{Declaration, Entry, Settings, Table, Target};
use crate::yaml::{self, Declared, Resource};

mod files;
mod relay;
mod storage_ids;

pub use files::Compiled;

use files::Files;
use storage_ids::Given;

const ALIASES_MAX: usize = 500;
const ALIAS_TARGETS_MAX: usize = 64;
const MAILBOX_ALIASES_MAX: usize = 100;
const IDENTITIES_MAX: usize = 100;
const ALIAS_DOMAINS_MAX: usize = 50;
/// What a login may send as, in all alias domains: it is kept in one record.
const ADDRESSES_MAX: usize = 1500;
const PASSWORDS_MAX: usize = 10;
/// RFC 5321 §4.5.3.1.7.
const MESSAGE_SIZE_BYTES_LEAST: u64 = 64 * 1024;
const MESSAGE_SIZE_BYTES_MAX: u64 = 1 << 30;
/// Room for a message of the size that everybody must take.
const QUOTA_BYTES_LEAST: u64 = MESSAGE_SIZE_BYTES_LEAST;
const QUOTA_BYTES_MAX: u64 = 1 << 50;
const RECIPIENTS_MAX: u32 = 10_000_000;

impl Table {
    /// Builds a table of everything declared, or says all that is wrong with it.
    pub fn compile(declared: &[Declared], settings: &Settings) -> Result<Self, Vec<Problem>> {
        let compiled = Compiler::of(declared).finish(settings);
        compiled.map(|compiled| Arc::unwrap_or_clone(compiled.table))
    }

    /// Builds the part of one tenant, or says all that is wrong with it. What leads nowhere is no
    /// reason to refuse the rest: a tenant's resources change one by one.
    pub fn of_tenant(declared: &[Declared]) -> Result<Holding, Vec<Problem>> {
        let mut compiler = Compiler::of(declared);
        compiler.complete();
        compiler.problems.append(&mut compiler.strays);
        compiler.problems.sort();
        if !compiler.problems.is_empty() {
            return Err(compiler.problems);
        }
        compiler.check_all_destinations();
        compiler.table.postmaster = compiler.hosted.first().cloned().map(postmaster_of);
        Ok(Holding { table: compiler.table, astray: compiler.astray })
    }

    /// Puts the parts of tenants together. Of two with the same domain the first has it. Mail to
    /// `<postmaster>` goes where `postmaster` says, unless that leads nowhere.
    pub fn of_tenants<'a>(
        parts: impl IntoIterator<Item = &'a Self>,
        postmaster: Option<&Mailbox>,
    ) -> Self {
        let mut whole = Self::default();
        for part in parts {
            for (domain, declaration) in &part.domains {
                if whole.domains.contains_key(domain) {
                    continue;
                }
                whole.domains.insert(domain.clone(), Arc::clone(declaration));
                if let Some(keyring) = part.keyrings.get(domain) {
                    whole.keyrings.insert(domain.clone(), Arc::clone(keyring));
                }
            }
            whole.has_scram |= part.has_scram;
        }
        let given = postmaster.filter(|it| !whole.destinations(it).is_empty());
        whole.postmaster = given.cloned();
        whole
    }

    /// Reads and compiles files, each a name for messages and a text, or says all that is wrong.
    pub fn from_yaml<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
        settings: &Settings,
    ) -> Result<Self, Vec<Problem>> {
        let texts: BTreeMap<String, &str> =
            files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        let names: Vec<String> = texts.keys().cloned().collect();
        let read = |name: &str| -> Result<String, Infallible> { Ok(texts[name].to_owned()) };
        let Ok(compiled) = Compiled::of_files(&names, None, settings, read);
        compiled.map(|compiled| Arc::unwrap_or_clone(compiled.table))
    }
}

/// What the resources of one tenant come to.
#[derive(Clone, Debug)]
pub struct Holding {
    pub table: Table,
    /// Aliases and postmasters that lead nowhere. Mail for them is refused.
    pub astray: Vec<Problem>,
}

/// A table in the making, with what is wrong so far.
#[derive(Default)]
struct Compiler<'a> {
    table: Table,
    files: Files<'a>,
    problems: Vec<Problem>,
    /// Uses of domains that nobody declares: none, perhaps, where something was not understood.
    strays: Vec<Problem>,
    /// Something was not understood before the first of these.
    are_strays_doubtful: bool,
    /// What leads nowhere, or nowhere at last.
    astray: Vec<Problem>,
    /// Something could not be read.
    is_unreadable: bool,
    /// Something was not understood: what refers to it is not wrong.
    is_partial: bool,
    names: HashSet<u128>,
    declared: Vec<Declared>,
    /// The domains that take mail, in order.
    hosted: Vec<Domain>,
    /// The domains that are said to be aliases.
    alias_domains: HashSet<Domain>,
    /// The aliases of each domain that has any.
    aliases: HashMap<Domain, Vec<Domain>>,
    storage_ids: HashMap<StorageId, Given>,
}

impl Compiler<'_> {
    fn of(declared: &[Declared]) -> Self {
        let mut compiler = Self::default();
        let (domains, mailboxes): (Vec<_>, Vec<_>) =
            declared.iter().partition(|at| matches!(at.resource, Resource::MailDomain { .. }));
        domains.into_iter().for_each(|at| compiler.add_domain(at.clone()));
        compiler.connect_domains();
        mailboxes.into_iter().for_each(|at| compiler.add_mailbox(at));
        compiler
    }

    /// Reads a file for the domains in it.
    fn survey(&mut self, file: &str, text: &str) {
        for document in yaml::documents(file, text).iter().filter(|it| it.may_be_domain()) {
            match document.read() {
                Ok(at) if matches!(at.resource, Resource::MailDomain { .. }) => {
                    self.add_domain(at);
                }
                Ok(_) => {}
                Err(problem) => self.unreadable(problem),
            }
        }
    }

    /// Reads a file for the mailboxes in it, once all domains are known.
    fn read_mailboxes(&mut self, file: &str, text: &str) {
        for document in yaml::documents(file, text) {
            match document.read() {
                Ok(at) => self.add_mailbox(&at),
                // The others were told of by the survey.
                Err(problem) if !document.may_be_domain() => self.unreadable(problem),
                Err(_) => {}
            }
        }
    }

    fn unreadable(&mut self, problem: Problem) {
        self.problems.push(problem);
        (self.is_unreadable, self.is_partial) = (true, true);
    }

    fn add_domain(&mut self, at: Declared) {
        if let Resource::MailDomain { metadata, spec } = &at.resource {
            self.check_metadata(&at, yaml::MAIL_DOMAIN, metadata);
            self.declare(&at, metadata, spec);
        }
        self.declared.push(at);
    }

    /// Once all domains are known.
    fn connect_domains(&mut self) {
        self.each_domain(|compiler, at, metadata, spec| {
            compiler.add_alias_domain(at, metadata, spec);
            compiler.add_gateway(at, metadata, spec);
        });
    }

    fn finish(mut self, settings: &Settings) -> Result<Compiled, Vec<Problem>> {
        self.complete();
        if !self.is_partial {
            self.check_all_destinations();
            self.set_postmaster(settings);
        }
        let are_told = !self.is_unreadable && !self.are_strays_doubtful;
        // The others are most often uses of the same domain.
        let stray = self.strays.into_iter().next().filter(|_| are_told);
        self.problems.extend(stray.into_iter().chain(self.astray));
        self.problems.sort();
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        Ok(self.files.compiled(self.table))
    }

    /// Once everything was added.
    fn complete(&mut self) {
        self.each_domain(|compiler, at, _, spec| compiler.add_aliases(at, spec));
        for keyring in self.table.keyrings.values_mut() {
            Arc::make_mut(keyring).close();
        }
        for declaration in self.table.domains.values_mut() {
            Arc::make_mut(declaration).entries.shrink_to_fit();
        }
        self.files.take_over(&mut self.table);
        self.check_storage_ids();
        self.table.has_scram = self.table.keyrings.values().any(|keyring| keyring.has_scram());
    }

    fn check_all_destinations(&mut self) {
        self.each_domain(|compiler, at, _, spec| compiler.check_destinations(at, spec));
    }

    fn each_domain(
        &mut self,
        mut look: impl FnMut(&mut Self, &Declared, &Metadata, &MailDomainSpec),
    ) {
        let declared = std::mem::take(&mut self.declared);
        for at in &declared {
            if let Resource::MailDomain { metadata, spec } = &at.resource {
                look(self, at, metadata, spec);
            }
        }
        self.declared = declared;
    }

    fn wrong(&mut self, at: &Declared, field: &str, message: impl Into<String>, remedy: &str) {
        self.problems.push(at.problem(field, message.into(), remedy));
    }

    fn astray(&mut self, at: &Declared, field: &str, message: String, remedy: &str) {
        self.astray.push(at.problem(field, message, remedy));
    }

    /// The names that Kubernetes takes (RFC 1123 §2.1), so that a directory can move there.
    fn check_metadata(&mut self, at: &Declared, kind: &str, metadata: &Metadata) {
        let remedy = "write lower-case letters, digits and hyphens, such as example-org";
        if metadata.name.len() > 253 || !metadata.name.split('.').all(is_label) {
            let message = format!("{:?} is not a resource name", metadata.name);
            self.wrong(at, "metadata.name", message, remedy);
        }
        if let Some(namespace) = &metadata.namespace
            && !is_label(namespace)
        {
            let message = format!("{namespace:?} is not a namespace");
            self.wrong(at, "metadata.namespace", message, remedy);
        }
        // A space is in none of the three.
        let text = format!("{kind} {} {}", tenant(metadata), metadata.name);
        let hash = u128::from_le_bytes(storage::half(&text));
        if kind == yaml::MAILBOX {
            self.files.has_mailbox(at.file(), hash);
        }
        if !self.names.insert(hash) {
            let message = format!("there are two of the name {:?}", metadata.name);
            let remedy = format!("give each {kind} of a namespace its own name");
            self.wrong(at, "metadata.name", message, &remedy);
        }
    }

    fn declare(&mut self, at: &Declared, metadata: &Metadata, spec: &MailDomainSpec) {
        let domain = match Domain::parse(&spec.domain) {
            Ok(domain) => domain,
            Err(error) => {
                self.is_partial = true;
                let message = format!("{:?}: {error}", spec.domain);
                return self.wrong(at, "spec.domain", message, "write a name such as example.org");
            }
        };
        self.files.touches(at.file(), &domain);
        self.check_numbers(at, spec);
        if self.table.domains.contains_key(&domain) {
            let message = format!("{domain} is declared twice");
            return self.wrong(at, "spec.domain", message, "keep one of the MailDomains");
        }
        if spec.inbound.enabled {
            self.hosted.push(domain.clone());
        }
        if spec.alias_of.is_some() {
            self.alias_domains.insert(domain.clone());
        }
        let separators = self.separators(at, spec);
        let declaration = Declaration {
            is_declared: true,
            separators,
            inbound: spec.inbound.enabled,
            tenant: tenant(metadata),
            alias_of: None,
            max_message_size_bytes: spec.inbound.max_message_size_bytes,
            quota: spec.quota,
            sending_limits: spec.sending_limits,
            gateway: None,
            certificate: None,
            entries: HashMap::new(),
            catch_all: None,
        };
        self.table.domains.insert(domain, Arc::new(declaration));
    }

    fn separators(&mut self, at: &Declared, spec: &MailDomainSpec) -> Separators {
        let field = "spec.inbound.subAddressSeparators";
        let parsed = Separators::try_from(spec.inbound.sub_address_separators.clone());
        let parsed = parsed.inspect_err(|error| {
            let remedy = "write one or several of +-_=#, or nothing for no sub-addresses";
            self.wrong(at, field, error.to_string(), remedy);
        });
        let separators = parsed.unwrap_or_default();
        if spec.alias_of.is_some() && !separators.is_default() {
            let message = "its names are those of another domain";
            self.wrong(at, field, message, "write it in that domain");
        }
        separators
    }

    /// A domain whose names are those of another one of the same tenant, which has its own.
    fn add_alias_domain(&mut self, at: &Declared, metadata: &Metadata, spec: &MailDomainSpec) {
        let (Some(of), Ok(domain)) = (&spec.alias_of, Domain::parse(&spec.domain)) else { return };
        if !spec.inbound.aliases.is_empty() || spec.inbound.catch_all.is_some() {
            let message = format!("{domain} has the names of {of}, and none of its own");
            self.wrong(at, "spec.inbound", message, "declare them in that domain");
        }
        if !spec.quota.is_nothing() {
            let message = format!("{domain} has the mailboxes of {of}, and none of its own");
            self.wrong(at, "spec.quota", message, "set it in that domain");
        }
        if !spec.sending_limits.is_empty() {
            let message = format!("{domain} has the mailboxes of {of}, which log in by its name");
            self.wrong(at, "spec.sendingLimits", message, "declare them in that domain");
        }
        let (field, remedy) = ("spec.aliasOf", "write a name such as example.org");
        let Some(target) = self.own_domain(at, field, of, remedy, metadata) else { return };
        if self.alias_domains.contains(&target) {
            self.is_partial = true;
            let message = format!("{target} is an alias itself");
            return self.wrong(at, field, message, "name the domain that it is an alias of");
        }
        if spec.inbound.enabled != self.table.is_hosted(&target) {
            self.is_partial = true;
            let message = format!("the mail of one of {domain} and {target} is received here");
            self.wrong(at, field, message, "set inbound.enabled alike in both");
        }
        if let Some(declaration) = self.table.domains.get_mut(&domain) {
            Arc::make_mut(declaration).alias_of = Some(target.clone());
        }
        let aliases = self.aliases.entry(target.clone()).or_default();
        aliases.push(domain);
        if aliases.len() > ALIAS_DOMAINS_MAX {
            let message = format!("{target} has more than {ALIAS_DOMAINS_MAX} aliases");
            self.wrong(at, field, message, "declare its mailboxes as domains of their own");
        }
    }

    /// The keys of an address, in its domain and in those that are aliases of it.
    fn keys(&self, address: &Mailbox) -> impl Iterator<Item = String> {
        let aliases = address.domain().and_then(|domain| self.aliases.get(domain));
        let local_part = address.local_part();
        let elsewhere = aliases
            .into_iter()
            .flatten()
            .map(move |alias| key(&Mailbox::new(local_part.clone(), Host::Domain(alias.clone()))));
        [key(address)].into_iter().chain(elsewhere)
    }

    fn check_numbers(&mut self, at: &Declared, spec: &MailDomainSpec) {
        let sizes = MESSAGE_SIZE_BYTES_LEAST..=MESSAGE_SIZE_BYTES_MAX;
        if let Some(size) = spec.inbound.max_message_size_bytes
            && !sizes.contains(&size)
        {
            let field = "spec.inbound.maxMessageSizeBytes";
            let remedy = "write 65536 to 1073741824, or leave it out for the listener's limit";
            self.wrong(at, field, format!("{size} is out of range"), remedy);
        }
        self.check_quota(at, &spec.quota);
        self.check_count(at, "spec.inbound.aliases", spec.inbound.aliases.len(), 0..=ALIASES_MAX);
        self.check_limits(at, &spec.sending_limits);
    }

    fn check_limits(&mut self, at: &Declared, limits: &Limits) {
        for (field, limit) in [
            ("recipientsPerHour", limits.recipients_per_hour),
            ("recipientsPerDay", limits.recipients_per_day),
        ] {
            if let Some(limit) = limit.filter(|limit| !(1..=RECIPIENTS_MAX).contains(limit)) {
                let field = format!("spec.sendingLimits.{field}");
                let remedy = format!(
                    "write 1 to {RECIPIENTS_MAX}; who must not send at all has no passwords"
                );
                self.wrong(at, &field, format!("{limit} is out of range"), &remedy);
            }
        }
    }

    fn check_quota(&mut self, at: &Declared, quota: &Quota) {
        let sizes = QUOTA_BYTES_LEAST..=QUOTA_BYTES_MAX;
        if let Some(bytes) = quota.bytes
            && !sizes.contains(&bytes)
        {
            let remedy = "write 65536 to 1125899906842624, or leave it out for any number";
            self.wrong(at, "spec.quota.bytes", format!("{bytes} is out of range"), remedy);
        }
    }

    fn check_count(
        &mut self,
        at: &Declared,
        field: &str,
        count: usize,
        allowed: std::ops::RangeInclusive<usize>,
    ) {
        if !allowed.contains(&count) {
            let remedy = format!("write {} to {}", allowed.start(), allowed.end());
            self.wrong(at, field, format!("has {count} entries"), &remedy);
        }
    }

    fn add_mailbox(&mut self, at: &Declared) {
        let Resource::Mailbox { metadata, spec } = &at.resource else { return };
        self.check_metadata(at, yaml::MAILBOX, metadata);
        self.check_count(at, "spec.aliases", spec.aliases.len(), 0..=MAILBOX_ALIASES_MAX);
        self.check_count(at, "spec.identities", spec.identities.len(), 0..=IDENTITIES_MAX);
        if spec.send_only && !spec.aliases.is_empty() {
            let message = "receives for them, and with sendOnly it does not receive";
            self.wrong(at, "spec.aliases", message, "write them as identities");
        }
        self.check_passwords(at, &spec.passwords);
        self.check_quota(at, &spec.quota);
        self.check_limits(at, &spec.sending_limits);
        let Some(address) = self.own_address(at, "spec.address", &spec.address, metadata) else {
            return;
        };
        let mut addresses: Vec<String> = self.keys(&address).collect();
        let storage_id = self.storage_id(at, metadata, spec);
        let keeping = Keeping { storage_id, quota: spec.quota };
        let entry = Entry::mailbox(&address, spec.send_only, keeping);
        self.add_entry(at, "spec.address", &address, entry);
        for (n, alias) in spec.aliases.iter().enumerate() {
            let field = format!("spec.aliases[{n}]");
            if let Some(alias) = self.own_address(at, &field, alias, metadata) {
                addresses.extend(self.keys(&alias));
                self.add_entry(at, &field, &alias, Entry::Alias([address.clone()].into()));
            }
        }
        let (identities, domains) = self.identities(at, metadata, spec);
        addresses.extend(identities);
        if addresses.len() > ADDRESSES_MAX {
            let message = format!("it may send as {} addresses", addresses.len());
            let remedy = "name *@ and the domain, or fewer aliases and alias domains";
            self.wrong(at, "spec.identities", message, remedy);
        }
        if spec.suspended || spec.passwords.is_empty() {
            return;
        }
        let of =
            |text: fn(&Password) -> &String| spec.passwords.iter().map(text).cloned().collect();
        let login = Login {
            hashes: of(|password| &password.hash),
            names: of(|password| &password.name),
            sending_limits: spec.sending_limits,
            addresses,
            domains,
        };
        self.add_login(&address, &login);
    }

    fn add_login(&mut self, address: &Mailbox, login: &Login) {
        if let Some(domain) = address.domain() {
            let keyring = self.table.keyrings.entry(domain.clone()).or_default();
            Arc::make_mut(keyring).add(&name(address.local_part()), login);
        }
    }

    /// The keys of addresses, and the domains, that it may send as and does not receive for.
    fn identities(
        &mut self,
        at: &Declared,
        metadata: &Metadata,
        spec: &MailboxSpec,
    ) -> (Vec<String>, Vec<Domain>) {
        let (mut addresses, mut domains) = (Vec::new(), Vec::new());
        for (n, identity) in spec.identities.iter().enumerate() {
            let field = format!("spec.identities[{n}]");
            let Some(domain) = identity.strip_prefix("*@") else {
                let own = self.own_address(at, &field, identity, metadata);
                addresses.extend(own.iter().flat_map(|own| self.keys(own)));
                continue;
            };
            let remedy = "write *@ and a name such as example.org";
            let own = self.own_domain(at, &field, domain, remedy, metadata);
            let aliases = own.as_ref().and_then(|own| self.aliases.get(own));
            domains.extend(aliases.into_iter().flatten().cloned());
            domains.extend(own);
        }
        (addresses, domains)
    }

    fn check_passwords(&mut self, at: &Declared, passwords: &[Password]) {
        self.check_count(at, "spec.passwords", passwords.len(), 0..=PASSWORDS_MAX);
        let (mut names, mut has_scram) = (HashSet::new(), false);
        for (n, password) in passwords.iter().enumerate() {
            if !names.insert(&password.name) {
                let message = format!("there are two of the name {:?}", password.name);
                let remedy = "name each password for what it is used for, such as phone";
                self.wrong(at, &format!("spec.passwords[{n}].name"), message, remedy);
            }
            let is_scram = password::scheme(&password.hash) == Some(scram::LABEL);
            if is_scram && has_scram {
                let message = "is the second of SCRAM-SHA-256, and a client is told one salt only";
                let remedy = "make the hashes of the other passwords with --scheme argon2id";
                self.wrong(at, &format!("spec.passwords[{n}].hash"), message, remedy);
            }
            has_scram |= is_scram;
            if let Err(message) = password::check(&password.hash) {
                let remedy = "run `postrider mailbox hash-password` and paste what it prints";
                self.wrong(at, &format!("spec.passwords[{n}].hash"), message, remedy);
            }
        }
    }

    /// An address in a domain of the same tenant.
    fn own_address(
        &mut self,
        at: &Declared,
        field: &str,
        text: &str,
        metadata: &Metadata,
    ) -> Option<Mailbox> {
        let address = self.address(at, field, text)?;
        if !self.is_own(at, field, address.host(), metadata) {
            return None;
        }
        if address.domain().is_some_and(|domain| self.alias_domains.contains(domain)) {
            self.is_partial = true;
            let message = format!("{} has the names of another domain only", address.host());
            self.wrong(
                at,
                field,
                message,
                "write the address in the domain that it is an alias of",
            );
            return None;
        }
        Some(address)
    }

    /// A domain of the same tenant.
    fn own_domain(
        &mut self,
        at: &Declared,
        field: &str,
        text: &str,
        remedy: &str,
        metadata: &Metadata,
    ) -> Option<Domain> {
        let domain = Domain::parse(text).inspect_err(|error| {
            self.is_partial = true;
            self.wrong(at, field, format!("{text:?}: {error}"), remedy);
        });
        let host = Host::Domain(domain.ok()?);
        self.is_own(at, field, &host, metadata).then(|| host.domain().cloned()).flatten()
    }

    /// Whether the host is a domain of the same tenant; says so if it is not.
    fn is_own(&mut self, at: &Declared, field: &str, host: &Host, metadata: &Metadata) -> bool {
        host.domain().into_iter().for_each(|domain| self.files.touches(at.file(), domain));
        let owner = host.domain().and_then(|domain| self.table.tenant_of(domain));
        match owner {
            Some(owner) if *owner == tenant(metadata) => return true,
            Some(_) => {
                let message = format!("{host} belongs to another namespace");
                self.wrong(at, field, message, "declare it in the MailDomain's namespace");
            }
            None => {
                self.are_strays_doubtful |= self.is_partial && self.strays.is_empty();
                let message = format!("{host} is not a declared domain");
                self.strays.push(at.problem(field, message, "declare a MailDomain for it"));
            }
        }
        self.is_partial = true;
        false
    }

    fn address(&mut self, at: &Declared, field: &str, text: &str) -> Option<Mailbox> {
        Mailbox::parse(text)
            .inspect_err(|error| {
                self.is_partial = true;
                let remedy = match *error == MailboxError::NoAt {
                    true => "write the whole address, such as alice@example.org",
                    false => "write an address such as alice@example.org",
                };
                self.wrong(at, field, format!("{text:?}: {error}"), remedy);
            })
            .ok()
    }

    fn add_entry(&mut self, at: &Declared, field: &str, address: &Mailbox, entry: Entry) {
        let declaration = address.domain().and_then(|domain| self.table.domains.get_mut(domain));
        let Some(declaration) = declaration.map(Arc::make_mut) else { return };
        if let Err(error) = LocalPart::parse(&address.local_part().to_string()) {
            let message = format!("{address}: {error}");
            return self.wrong(at, field, message, "choose a shorter name");
        }
        let name = name(address.local_part());
        if declaration.entries.contains_key(&*name) {
            let message = format!("{address} is declared twice");
            return self.wrong(at, field, message, "keep one mailbox or alias of that name");
        }
        declaration.entries.insert(name.into(), entry);
    }

    fn add_aliases(&mut self, at: &Declared, spec: &MailDomainSpec) {
        let Ok(domain) = Domain::parse(&spec.domain) else { return };
        for (n, alias) in spec.inbound.aliases.iter().enumerate() {
            let field = format!("spec.inbound.aliases[{n}]");
            let to = format!("{field}.to");
            self.check_count(at, &to, alias.to.len(), 1..=ALIAS_TARGETS_MAX);
            let targets = alias.to.iter().enumerate();
            let targets = targets
                .filter_map(|(m, target)| self.address(at, &format!("{to}[{m}]"), target))
                .collect();
            let field = format!("{field}.match");
            let parsed = match alias.local_part.as_str() {
                "*" => Err(MailboxError::LocalPartSyntax), // elsewhere it means all the rest
                text => LocalPart::parse(text),
            };
            match parsed {
                Ok(local_part) => {
                    let address = Mailbox::new(local_part, Host::Domain(domain.clone()));
                    self.add_entry(at, &field, &address, Entry::Alias(targets));
                }
                Err(error) => {
                    self.is_partial = true;
                    let message = format!("{:?}: {error}", alias.local_part);
                    let remedy = "write what stands before the @, such as info; \
                                  for everything else there is catchAll";
                    self.wrong(at, &field, message, remedy);
                }
            }
        }
        if let Some(text) = &spec.inbound.catch_all
            && let Some(target) = self.address(at, "spec.inbound.catchAll", text)
            && let Some(declaration) = self.table.domains.get_mut(&domain)
        {
            Arc::make_mut(declaration).catch_all = Some([target].into());
        }
    }

    /// Every alias leads somewhere, and postmaster does (RFC 5321 §4.5.1).
    fn check_destinations(&mut self, at: &Declared, spec: &MailDomainSpec) {
        let Ok(domain) = Domain::parse(&spec.domain) else { return };
        for (n, alias) in spec.inbound.aliases.iter().enumerate() {
            self.check_alias(at, n, alias, &domain);
        }
        self.check_catch_all(at, &spec.inbound, &domain);
        let postmaster = postmaster_of(domain);
        if spec.inbound.enabled && self.table.destinations(&postmaster).is_empty() {
            let message = format!("{postmaster} goes nowhere");
            let remedy = "add an alias: {match: postmaster, to: [an address]} \
                          (RFC 5321 §4.5.1)";
            self.astray(at, "spec.inbound.aliases", message, remedy);
        }
    }

    fn check_alias(&mut self, at: &Declared, n: usize, alias: &Alias, domain: &Domain) {
        let field = format!("spec.inbound.aliases[{n}]");
        for (m, target) in alias.to.iter().enumerate() {
            if let Ok(target) = Mailbox::parse(target)
                && self.is_nowhere(&target)
            {
                self.astray(at, &format!("{field}.to[{m}]"), nowhere(&target), NOWHERE_REMEDY);
            }
        }
        if let Ok(local_part) = LocalPart::parse(&alias.local_part) {
            let address = Mailbox::new(local_part, Host::Domain(domain.clone()));
            if let Err(astray) = graph::follow(&self.table, &address) {
                let message = format!("{address} {astray}");
                self.astray(at, &format!("{field}.match"), message, astray.remedy());
            }
        }
    }

    fn check_catch_all(&mut self, at: &Declared, inbound: &Inbound, domain: &Domain) {
        let field = "spec.inbound.catchAll";
        let target = inbound.catch_all.as_deref().map(Mailbox::parse);
        let Some(Ok(target)) = target else { return };
        let is_own = target.domain() == Some(domain);
        let is_caught = is_own && self.table.named(target.local_part(), domain).is_none();
        if is_caught || self.is_nowhere(&target) {
            self.astray(at, field, nowhere(&target), NOWHERE_REMEDY);
        } else if let Err(astray) = graph::follow(&self.table, &target) {
            self.astray(at, field, format!("{target} {astray}"), astray.remedy());
        }
    }

    /// Whether the domain is ours and has nothing of that name that takes mail.
    fn is_nowhere(&self, address: &Mailbox) -> bool {
        let hosted = address.domain().filter(|domain| self.table.is_hosted(domain));
        hosted.is_some_and(|domain| {
            let gateway = self.table.gateway(self.table.canonical(domain));
            match self.table.entry(address.local_part(), domain) {
                None => !gateway.is_some_and(|gateway| gateway.call_ahead),
                Some(Target::SendOnly(_)) => true,
                Some(Target::Mailbox(_) | Target::Alias(_) | Target::Recipient) => false,
            }
        })
    }

    /// Mail to `<postmaster>` without a domain goes somewhere, too.
    fn set_postmaster(&mut self, settings: &Settings) {
        let first = self.hosted.first().cloned().map(postmaster_of);
        let given = settings.postmaster.clone();
        let (message, remedy) = match &given {
            Some(address) if self.table.destinations(address).is_empty() => {
                (format!("{address} goes nowhere"), "name an address that exists")
            }
            None if first.is_none() => (
                "no domain takes mail, so <postmaster> goes nowhere (RFC 5321 §4.5.1)".into(),
                "declare a MailDomain, or name an address elsewhere",
            ),
            Some(_) | None => {
                self.table.postmaster = given.or(first);
                return;
            }
        };
        let (at, field, remedy) = (Source::default(), "postmaster".into(), remedy.into());
        self.problems.push(Problem { at, field, message, remedy });
    }
}

fn tenant(metadata: &Metadata) -> TenantId {
    TenantId::new(metadata.namespace.as_deref().unwrap_or("default"))
}

fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    matches!(text.len(), 1..=63)
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn postmaster_of(domain: Domain) -> Mailbox {
    // The literal is a Dot-string of RFC 5321 §4.1.2.
    #[expect(clippy::expect_used)]
    let local_part = LocalPart::parse("postmaster").expect("a local part");
    Mailbox::new(local_part, Host::Domain(domain))
}

const NOWHERE_REMEDY: &str = "declare the mailbox, or name another address";

fn nowhere(address: &Mailbox) -> String {
    format!(
        "{address} goes nowhere: its domain is ours and has nothing of that name that takes mail"
    )
}
