//! The compiled table: every question a role has, answered without a file or a cluster.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mail_types::{Domain, Host, LocalPart, Mailbox, TenantId, Timestamp};
use senders::Limits;

use crate::certificate::Certificate;
use crate::gateway::Gateway;
use crate::identity::{Identity, key, name};
use crate::keyring::Keyring;
use crate::row::Login;
use crate::separators::Separators;
use crate::srs::Srs;
use crate::storage::{Keeping, Quota};

/// What the process says about all domains.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Where mail for `<postmaster>` without a domain goes (RFC 5321 §4.5.1), here or elsewhere;
    /// without it, to the postmaster of the domain that was declared first.
    pub postmaster: Option<Mailbox>,
}

/// All hosted domains, mailboxes and logins. A copy is cheap: it shares its domains until they
/// change.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub(crate) domains: HashMap<Domain, Arc<Declaration>>,
    /// Of a table that was compiled; what is put together from rows has none.
    pub(crate) keyrings: BTreeMap<Domain, Arc<Keyring>>,
    pub(crate) postmaster: Option<Mailbox>,
    /// Some login has keys of SCRAM.
    pub(crate) has_scram: bool,
}

/// What was declared for a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Declaration {
    /// False while only names in it are known.
    pub(crate) is_declared: bool,
    /// Whether its mail is received here.
    pub(crate) inbound: bool,
    pub(crate) tenant: TenantId,
    /// The domain whose names are this one's.
    pub(crate) alias_of: Option<Domain>,
    pub(crate) max_message_size_bytes: Option<u64>,
    /// Of each mailbox that says nothing else.
    pub(crate) quota: Quota,
    pub(crate) separators: Separators,
    /// What its logins together may send.
    pub(crate) sending_limits: Limits,
    /// Its own server, which its mail is handed to.
    pub(crate) gateway: Option<Arc<Gateway>>,
    /// For names of the domain.
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// By local part in lower case.
    pub(crate) entries: HashMap<Box<str>, Entry>,
    pub(crate) catch_all: Option<Box<[Mailbox]>>,
}

impl Default for Declaration {
    /// Of a domain of which no more than names is known.
    fn default() -> Self {
        Self {
            is_declared: false,
            inbound: false,
            tenant: TenantId::new("default"),
            alias_of: None,
            max_message_size_bytes: None,
            quota: Quota::default(),
            separators: Separators::default(),
            sending_limits: Limits::default(),
            gateway: None,
            certificate: None,
            entries: HashMap::new(),
            catch_all: None,
        }
    }
}

impl Declaration {
    /// The entry of a name, or of what it is a sub-address of, with the name that it is under.
    pub(crate) fn entry(&self, name: &str) -> Option<(&str, &Entry)> {
        let found = |name: &str| self.entries.get_key_value(name);
        let (name, entry) = found(name).or_else(|| self.separators.bases(name).find_map(found))?;
        Some((&**name, entry))
    }
}

/// What a name in a domain is: as small as can be, for there may be a million.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Mailbox(Option<Box<Particulars>>),
    /// A mailbox that takes no mail.
    SendOnly(Option<Box<Particulars>>),
    Alias(Box<[Mailbox]>),
    /// Somebody whom the domain's own server takes mail for.
    Recipient,
}

/// What few mailboxes have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Particulars {
    /// The address where it is another than the name in its domain.
    address: Option<Mailbox>,
    keeping: Keeping,
}

/// The same with its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target<'a> {
    Mailbox(Mailbox),
    SendOnly(Mailbox),
    Alias(&'a [Mailbox]),
    Recipient,
}

impl Entry {
    pub(crate) fn mailbox(address: &Mailbox, send_only: bool, keeping: Keeping) -> Self {
        let local_part = address.local_part();
        let is_plain = LocalPart::parse(&name(local_part)).is_ok_and(|plain| plain == *local_part);
        let particulars = Particulars { address: (!is_plain).then(|| address.clone()), keeping };
        let has_any = particulars != Particulars::default();
        let particulars = has_any.then(|| Box::new(particulars));
        if send_only { Self::SendOnly(particulars) } else { Self::Mailbox(particulars) }
    }

    /// What was declared of how its mail is kept; `None` where none is.
    pub(crate) fn keeping(&self) -> Option<Keeping> {
        match self {
            Self::Mailbox(own) | Self::SendOnly(own) => {
                Some(own.as_ref().map(|own| own.keeping).unwrap_or_default())
            }
            Self::Alias(_) | Self::Recipient => None,
        }
    }

    /// `None` when `name` is not its own.
    pub(crate) fn target(&self, name: &str, domain: &Domain) -> Option<Target<'_>> {
        let address = |own: &Option<Box<Particulars>>| match own.as_deref() {
            Some(Particulars { address: Some(address), .. }) => Some(address.clone()),
            Some(Particulars { address: None, .. }) | None => {
                let host = Host::Domain(domain.clone());
                Some(Mailbox::new(LocalPart::parse(name).ok()?, host))
            }
        };
        Some(match self {
            Self::Alias(to) => Target::Alias(to),
            Self::Recipient => Target::Recipient,
            Self::Mailbox(own) => Target::Mailbox(address(own)?),
            Self::SendOnly(own) => Target::SendOnly(address(own)?),
        })
    }
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
        entries.filter(|entry| matches!(entry, Entry::Mailbox(_) | Entry::SendOnly(_))).count()
    }

    /// The server that mail of the domain is handed to, if it has one of its own. An alias domain
    /// has none: its addresses are rewritten to the other.
    pub fn gateway(&self, domain: &Domain) -> Option<&Arc<Gateway>> {
        self.domain(domain).filter(|it| it.inbound)?.gateway.as_ref()
    }

    /// Whether mail of the domain goes to a server of its own, or to that of the domain of which it
    /// is an alias.
    pub fn is_handed_over(&self, domain: &Domain) -> bool {
        self.gateway(self.canonical(domain)).is_some()
    }

    /// The domain that a host's name is in: of several the nearest, which may be another tenant's.
    pub fn nearest(&self, name: &str) -> Option<&Domain> {
        let mut names = std::iter::successors(Some(name), |name| Some(name.split_once('.')?.1));
        names.find_map(|name| {
            let (domain, it) = self.domains.get_key_value(&Domain::parse(name).ok()?)?;
            it.is_declared.then_some(domain)
        })
    }

    /// Keeps these domains and no others.
    pub fn retain(&mut self, is_kept: impl Fn(&Domain) -> bool) {
        self.domains.retain(|domain, _| is_kept(domain));
        self.keyrings.retain(|domain, _| is_kept(domain));
    }

    /// Gives a domain a certificate of its own, if there is that domain.
    pub fn set_certificate(&mut self, domain: &Domain, certificate: Arc<Certificate>) {
        if let Some(declaration) = self.domains.get_mut(domain) {
            Arc::make_mut(declaration).certificate = Some(certificate);
        }
    }

    /// A domain's own certificate.
    pub fn certificate(&self, domain: &Domain) -> Option<&Arc<Certificate>> {
        self.domain(domain)?.certificate.as_ref()
    }

    /// The domains that have certificates of their own.
    pub fn certificates(&self) -> impl Iterator<Item = (&Domain, &Arc<Certificate>)> {
        self.domains.iter().filter_map(|(domain, it)| Some((domain, it.certificate.as_ref()?)))
    }

    /// All gateway domains with their servers.
    pub fn gateways(&self) -> impl Iterator<Item = (&Domain, &Arc<Gateway>)> {
        self.domains.iter().filter_map(|(domain, it)| Some((domain, it.gateway.as_ref()?)))
    }

    /// Whose a domain is.
    pub fn tenant_of(&self, domain: &Domain) -> Option<&TenantId> {
        self.domains.get(domain).map(|declaration| &declaration.tenant)
    }

    /// The largest message that a domain takes, in octets.
    pub fn max_message_size_bytes(&self, domain: &Domain) -> Option<u64> {
        let of = |domain| self.domain(domain)?.max_message_size_bytes;
        of(domain).or_else(|| of(self.canonical(domain)))
    }

    /// What the logins of a domain together may send, as far as it was declared.
    pub fn sending_limits(&self, domain: &Domain) -> Limits {
        self.domain(domain).map(|declaration| declaration.sending_limits).unwrap_or_default()
    }

    /// Whom a bounce is for that came to `address`, if that is one of forwarded mail. Where it has
    /// passed us twice, the first sender.
    pub fn forwarded_sender(
        &self,
        srs: &Srs,
        address: &Mailbox,
        now: Timestamp,
    ) -> Option<Mailbox> {
        let once = |address: &Mailbox| {
            let is_hosted = address.domain().is_some_and(|domain| self.is_hosted(domain));
            is_hosted.then(|| srs.reverse(address, now)).flatten()
        };
        let sender = once(address)?;
        Some(once(&sender).unwrap_or(sender))
    }

    /// Who logs in by this name: the address of a mailbox that has a password and is not
    /// suspended, ASCII letters in either case.
    pub fn identity(&self, login: &str) -> Option<Identity> {
        let address = Mailbox::parse(login).ok()?;
        self.identity_of(address.domain()?, &name(address.local_part()))
    }

    /// How the owner of a name logs in.
    pub(crate) fn login(&self, domain: &Domain, name: &str) -> Option<Login> {
        self.keyrings.get(domain)?.find(name, format!("{name}@{domain}"))
    }

    fn identity_of(&self, domain: &Domain, name: &str) -> Option<Identity> {
        let login = self.login(domain, name)?;
        let declaration = self.domain(domain)?;
        let address = match declaration.entries.get(name)?.target(name, domain)? {
            Target::Mailbox(address) | Target::SendOnly(address) => address,
            Target::Alias(_) | Target::Recipient => return None,
        };
        Some(Identity {
            login: address.to_string(),
            tenant: declaration.tenant.clone(),
            hashes: login.hashes,
            password_names: login.names,
            sending_limits: login.sending_limits,
            addresses: login.addresses,
            domains: login.domains,
        })
    }

    /// Somebody whose passwords take the place of those of a login that nobody has: refusing it is
    /// as much work as refusing a wrong password, and always the same work for the same login.
    pub fn stand_in(&self, login: &str) -> Option<Identity> {
        let login = login.to_ascii_lowercase();
        let (name, domain) = login.rsplit_once('@').unwrap_or((&login, ""));
        let domain = Domain::parse(domain).ok();
        let next = domain.and_then(|domain| self.keyrings.range(domain..).next());
        let (domain, keyring) = next.or_else(|| self.keyrings.first_key_value())?;
        self.identity_of(domain, keyring.at_or_after(name)?)
    }

    /// Whether anybody could log in by SCRAM-SHA-256.
    pub fn offers_scram(&self) -> bool {
        self.has_scram
    }

    /// Where `<postmaster>` leads.
    pub fn postmaster(&self) -> Option<&Mailbox> {
        self.postmaster.as_ref()
    }

    /// The domain whose names those of `domain` are: another one, of which it is an alias, or
    /// itself.
    pub(crate) fn canonical<'a>(&'a self, domain: &'a Domain) -> &'a Domain {
        self.domain(domain).and_then(|it| it.alias_of.as_ref()).unwrap_or(domain)
    }

    /// By which addresses are compared: the names of an alias domain are those of the other.
    pub(crate) fn key(&self, address: &Mailbox) -> String {
        // Elsewhere the two may be as different as they like.
        let Some(domain) = address.domain().filter(|domain| self.is_hosted(domain)) else {
            return key(address);
        };
        let domain = Host::Domain(self.canonical(domain).clone());
        key(&Mailbox::new(address.local_part().clone(), domain))
    }

    pub(crate) fn domain(&self, domain: &Domain) -> Option<&Declaration> {
        self.domains.get(domain).map(|declaration| &**declaration)
    }
}
