//! A table in pieces that are kept and replaced one by one.

use std::fmt;
use std::sync::Arc;

use mail_types::{Domain, Mailbox, TenantId};
use senders::Limits;
use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::gateway::Gateway;
use crate::identity::{Identity, name};
use crate::password;
use crate::separators::Separators;
use crate::storage::{Keeping, Quota};
use crate::table::{Declaration, Entry, Table, Target};

/// What a table says of a domain, or of one name in it. Pieces of a compiled table, not what people
/// declare: they were checked together.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Row {
    Domain {
        domain: Domain,
        /// Whether its mail is received here.
        inbound: bool,
        tenant: TenantId,
        /// The domain whose names are this one's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alias_of: Option<Domain>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_message_size_bytes: Option<u64>,
        /// Of each mailbox that says nothing else.
        #[serde(default, skip_serializing_if = "Quota::is_nothing")]
        quota: Quota,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        catch_all: Vec<Mailbox>,
        #[serde(default, skip_serializing_if = "Separators::is_default")]
        separators: Separators,
        #[serde(default, skip_serializing_if = "Limits::is_empty")]
        sending_limits: Limits,
        /// Its own server, which its mail is handed to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Arc<Gateway>>,
        /// For names of the domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificate: Option<Arc<Certificate>>,
    },
    Mailbox {
        address: Mailbox,
        /// It takes no mail.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        send_only: bool,
        #[serde(default, skip_serializing_if = "Keeping::is_nothing")]
        keeping: Keeping,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        login: Option<Login>,
    },
    Alias {
        domain: Domain,
        /// The local part, in lower case and without quotes.
        name: String,
        to: Vec<Mailbox>,
    },
    /// Somebody whom the domain's own server takes mail for.
    Recipient {
        domain: Domain,
        /// As that of an alias.
        name: String,
    },
}

/// How the owner of a mailbox logs in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Login {
    /// Of its passwords; none where they are kept apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hashes: Vec<String>,
    /// Of its passwords, in the order of the hashes; versions before names were shown have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Vec<String>,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub(crate) sending_limits: Limits,
    /// The addresses it may send as, in the form in which they are compared.
    pub(crate) addresses: Vec<String>,
    /// Domains of which it may send as any address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) domains: Vec<Domain>,
}

/// Rows that make no table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RowError {
    #[error("{0} is in no domain of the table")]
    Stray(String),
    #[error("{address}: {problem}")]
    Password { address: String, problem: String },
}

impl Row {
    /// The domain that it is of.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain { domain, .. }
            | Self::Alias { domain, .. }
            | Self::Recipient { domain, .. } => Some(domain),
            Self::Mailbox { address, .. } => address.domain(),
        }
    }

    /// The name in the domain; `None` for the domain itself. No two rows of a table have the same
    /// domain and name.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Domain { .. } => None,
            Self::Mailbox { address, .. } => Some(name(address.local_part())),
            Self::Alias { name, .. } | Self::Recipient { name, .. } => Some(name.clone()),
        }
    }

    /// Takes the hashes of passwords out, to be kept apart. Empty when nobody can log in.
    pub fn take_hashes(&mut self) -> Vec<String> {
        match self {
            Self::Mailbox { login: Some(login), .. } => std::mem::take(&mut login.hashes),
            Self::Mailbox { .. } | Self::Domain { .. } => Vec::new(),
            Self::Alias { .. } | Self::Recipient { .. } => Vec::new(),
        }
    }

    /// Takes the key of a domain's certificate out, to be kept apart.
    pub fn take_key(&mut self) -> Option<String> {
        let Self::Domain { certificate: Some(certificate), .. } = self else { return None };
        let key = std::mem::take(&mut Arc::make_mut(certificate).key);
        (!key.is_empty()).then_some(key)
    }

    /// Puts the key of a domain's certificate back.
    pub fn put_key(&mut self, key: String) {
        if let Self::Domain { certificate: Some(certificate), .. } = self {
            Arc::make_mut(certificate).key = key;
        }
    }

    /// Whether somebody may log in by it.
    pub fn has_login(&self) -> bool {
        matches!(self, Self::Mailbox { login: Some(_), .. })
    }

    /// Who logs in by it, with the hashes that were taken out.
    ///
    /// # Errors
    /// A hash that must not be checked.
    pub fn identity(
        &self,
        hashes: Vec<String>,
        tenant: &TenantId,
    ) -> Result<Option<Identity>, RowError> {
        let Self::Mailbox { address, login: Some(login), .. } = self else { return Ok(None) };
        let wrong = |problem| RowError::Password { address: address.to_string(), problem };
        for hash in &hashes {
            password::check(hash).map_err(wrong)?;
        }
        if hashes.is_empty() {
            return Err(wrong("has a login without a password".to_owned()));
        }
        Ok(Some(Identity {
            login: address.to_string(),
            tenant: tenant.clone(),
            hashes,
            password_names: login.names.clone(),
            sending_limits: login.sending_limits,
            addresses: login.addresses.clone(),
            domains: login.domains.clone(),
        }))
    }
}

impl fmt::Debug for Row {
    /// Names it, without the hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = self.domain().map(ToString::to_string).unwrap_or_default();
        match self.name() {
            None => write!(f, "Row({domain})"),
            Some(name) => write!(f, "Row({name}@{domain})"),
        }
    }
}

impl Table {
    /// The pieces of the table; only the place of `<postmaster>` is in none of them.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.domains.keys().flat_map(|domain| self.rows_of(domain))
    }

    /// The domains of which this table or the one before may have other rows than the other one.
    pub fn changed_domains<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Domain> {
        let gone = before.domains.keys().filter(|domain| !self.domains.contains_key(*domain));
        let is_new = |domain: &&Domain| {
            let (declared, keyring) = (self.domains.get(*domain), self.keyrings.get(*domain));
            !is_shared(declared, before.domains.get(*domain))
                || !is_shared(keyring, before.keyrings.get(*domain))
        };
        self.domains.keys().filter(is_new).chain(gone)
    }

    /// The pieces of one domain.
    pub fn rows_of(&self, domain: &Domain) -> impl Iterator<Item = Row> + '_ {
        let declared = self.domains.get_key_value(domain);
        declared.into_iter().flat_map(|(domain, declaration)| {
            let entries = declaration.entries.iter();
            let entries = entries.filter_map(|(name, entry)| self.row_of(domain, name, entry));
            [row_of_domain(domain, declaration)].into_iter().chain(entries)
        })
    }

    /// Whether somebody may log in by one of the rows.
    pub fn has_logins(&self) -> bool {
        !self.keyrings.is_empty()
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.domains.values().map(|declaration| 1 + declaration.entries.len()).sum()
    }

    /// The row of a domain, or of a name in it.
    pub fn row(&self, domain: &Domain, name: Option<&str>) -> Option<Row> {
        let declaration = self.domain(domain)?;
        match name {
            None => Some(row_of_domain(domain, declaration)),
            Some(name) => self.row_of(domain, name, declaration.entries.get(name)?),
        }
    }

    /// Whether there is a row of a domain, or of a name in it.
    pub fn has(&self, domain: &Domain, name: Option<&str>) -> bool {
        self.domain(domain).is_some_and(|declaration| match name {
            None => declaration.is_declared,
            Some(name) => declaration.entries.contains_key(name),
        })
    }

    fn row_of(&self, domain: &Domain, name: &str, entry: &Entry) -> Option<Row> {
        Some(match entry.target(name, domain)? {
            Target::Alias(to) => {
                Row::Alias { domain: domain.clone(), name: name.to_owned(), to: to.to_vec() }
            }
            Target::Mailbox(address) => self.row_of_mailbox(address, false, entry),
            Target::SendOnly(address) => self.row_of_mailbox(address, true, entry),
            Target::Recipient => Row::Recipient { domain: domain.clone(), name: name.to_owned() },
        })
    }

    fn row_of_mailbox(&self, address: Mailbox, send_only: bool, entry: &Entry) -> Row {
        let name = name(address.local_part());
        let login = address.domain().and_then(|domain| self.login(domain, &name));
        let keeping = entry.keeping().unwrap_or_default();
        Row::Mailbox { address, send_only, keeping, login }
    }

    /// Puts a table together again, without its logins.
    ///
    /// # Errors
    /// The first row that does not fit. Rows of [`Table::rows`], all of them, do.
    pub fn from_rows<'a>(
        rows: impl IntoIterator<Item = &'a Row>,
        postmaster: Option<Mailbox>,
    ) -> Result<Self, RowError> {
        let mut table = Self::default();
        rows.into_iter().for_each(|row| table.put(row));
        table.set_postmaster(postmaster);
        table.check_whole()?;
        Ok(table)
    }

    /// Adds a row, or replaces the one of its name.
    pub fn put(&mut self, row: &Row) {
        let (Some(domain), name) = (row.domain(), row.name()) else { return };
        let declaration = self.domains.entry(domain.clone()).or_default();
        let declaration = Arc::make_mut(declaration);
        let entry = match row {
            Row::Alias { to, .. } => Entry::Alias(to.as_slice().into()),
            Row::Mailbox { address, send_only, keeping, .. } => {
                Entry::mailbox(address, *send_only, *keeping)
            }
            Row::Recipient { .. } => Entry::Recipient,
            Row::Domain {
                domain: _,
                inbound,
                tenant,
                alias_of,
                max_message_size_bytes,
                quota,
                catch_all,
                separators,
                sending_limits,
                gateway,
                certificate,
            } => {
                declaration.is_declared = true;
                declaration.inbound = *inbound;
                declaration.tenant = tenant.clone();
                declaration.alias_of.clone_from(alias_of);
                declaration.max_message_size_bytes = *max_message_size_bytes;
                declaration.quota = *quota;
                declaration.separators = separators.clone();
                declaration.sending_limits = *sending_limits;
                declaration.catch_all = (!catch_all.is_empty()).then(|| catch_all[..].into());
                declaration.gateway.clone_from(gateway);
                declaration.certificate.clone_from(certificate);
                return;
            }
        };
        declaration.entries.insert(name.unwrap_or_default().into(), entry);
    }

    /// Removes the row of a domain, or of a name in it.
    pub fn remove(&mut self, domain: &Domain, name: Option<&str>) {
        let Some(declaration) = self.domains.get_mut(domain) else { return };
        let declaration = Arc::make_mut(declaration);
        match name {
            Some(name) => drop(declaration.entries.remove(name)),
            None => {
                let entries = std::mem::take(&mut declaration.entries);
                *declaration = Declaration { entries, ..Declaration::default() };
            }
        }
        if !declaration.is_declared && declaration.entries.is_empty() {
            self.domains.remove(domain);
        }
    }

    /// Sets where `<postmaster>` leads.
    pub fn set_postmaster(&mut self, postmaster: Option<Mailbox>) {
        self.postmaster = postmaster;
    }

    /// Sets whether anybody could log in by SCRAM: logins are in no row's keeping.
    pub fn set_scram(&mut self, has_scram: bool) {
        self.has_scram = has_scram;
    }

    /// Whether all names are in domains that have a row.
    ///
    /// # Errors
    /// A domain that has none.
    pub fn check_whole(&self) -> Result<(), RowError> {
        let stray = self.domains.iter().find(|(_, declaration)| !declaration.is_declared);
        stray.map_or(Ok(()), |(domain, _)| Err(RowError::Stray(domain.to_string())))
    }
}

/// Whether both are the same thing, and not only alike.
fn is_shared<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn row_of_domain(domain: &Domain, declaration: &Declaration) -> Row {
    Row::Domain {
        domain: domain.clone(),
        inbound: declaration.inbound,
        tenant: declaration.tenant.clone(),
        alias_of: declaration.alias_of.clone(),
        max_message_size_bytes: declaration.max_message_size_bytes,
        quota: declaration.quota,
        catch_all: declaration.catch_all.as_deref().unwrap_or_default().to_vec(),
        separators: declaration.separators.clone(),
        sending_limits: declaration.sending_limits,
        gateway: declaration.gateway.clone(),
        certificate: declaration.certificate.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{OnFull, StorageId};
    use crate::table::Settings;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$cG9zdHJpZGVydGVzdCE$\
                        dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk";

    fn table() -> Table {
        let id = StorageId::of(&"rob@a.example".parse().unwrap()).unwrap();
        let text = format!(
            "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
             metadata: {{name: a, namespace: t}}\nspec:\n  domain: a.example\n  \
             quota: {{bytes: 70000}}\n  inbound:\n    subAddressSeparators: \"+-\"\n    \
             maxMessageSizeBytes: 70000\n    catchAll: all@b.example\n    aliases:\n    \
             - {{match: postmaster, to: [Alice@a.example, \"\\\"x y\\\"@c.example\"]}}\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: b}}\n\
             spec:\n  domain: b.example\n  inbound: {{enabled: false}}\n  \
             sendingLimits: {{recipientsPerDay: 9}}\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\n\
             metadata: {{name: alice, namespace: t}}\nspec:\n  address: Alice@a.example\n  \
             aliases: [\"\\\"a b\\\"@a.example\"]\n  \
             passwords: [{{name: phone, hash: \"{HASH}\"}}]\n  \
             sendingLimits: {{recipientsPerHour: 7}}\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\n\
             metadata: {{name: bob, namespace: t}}\nspec:\n  address: bob@a.example\n  \
             storageId: {id}\n  quota: {{onFull: reject}}\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
             metadata: {{name: z, namespace: t}}\nspec: {{domain: z.example, aliasOf: a.example}}\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\n\
             metadata: {{name: app, namespace: t}}\nspec:\n  address: app@a.example\n  \
             sendOnly: true\n  identities: [\"*@a.example\", sales@a.example]\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
             metadata: {{name: g, namespace: t}}\nspec:\n  domain: g.example\n  \
             target: relay\n  relay:\n    hosts: [mail.g.example, \"[2001:db8::1]:26\"]\n    \
             recipients: {{list: [postmaster@g.example, Carol@g.example]}}\n    \
             auth: {{user: us, passwordFile: at-g}}\n"
        );
        Table::from_yaml([("f", text.as_str())], &Settings::default()).unwrap()
    }

    #[test]
    fn a_table_survives_its_rows() {
        let table = table();
        let rows: Vec<Row> = table.rows().collect();
        assert_eq!((rows.len(), table.row_count()), (11, 11));
        let text = serde_saphyr::to_string(&rows).unwrap();
        let read: Vec<Row> = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, rows);
        let again = Table::from_rows(read.iter().rev(), table.postmaster().cloned()).unwrap();
        assert_eq!(again.domains, table.domains);
        assert_eq!(again.postmaster, table.postmaster);
        let bob = again.storage(&"bob+x@z.example".parse().unwrap()).unwrap();
        assert_eq!(Some(bob.id), StorageId::of(&"rob@a.example".parse().unwrap()));
        assert_eq!((bob.quota_bytes, bob.on_full), (Some(70000), OnFull::Reject));
        assert!(!format!("{rows:?}").contains("argon2"));
        for row in &rows {
            let found = table.row(row.domain().unwrap(), row.name().as_deref());
            assert_eq!(found.as_ref(), Some(row));
        }
    }

    #[test]
    fn rows_come_and_go_one_by_one() {
        let table = table();
        let mut changed = table.clone();
        let rows: Vec<Row> = table.rows().collect();
        for row in &rows {
            changed.remove(row.domain().unwrap(), row.name().as_deref());
        }
        assert!(changed.domains.is_empty());
        assert_eq!(table.row_count(), 11, "a copy was changed");
        let (names, domains): (Vec<&Row>, Vec<&Row>) =
            rows.iter().partition(|row| row.name().is_some());
        names.into_iter().for_each(|row| changed.put(row));
        assert!(matches!(changed.check_whole(), Err(RowError::Stray(_))));
        domains.into_iter().for_each(|row| changed.put(row));
        assert_eq!(changed.check_whole(), Ok(()));
        assert_eq!(changed.domains, table.domains);
    }

    #[test]
    fn hashes_are_kept_apart_and_checked() {
        let table = table();
        let mut logins: Vec<Row> = table.rows().filter(Row::has_login).collect();
        let [row] = &mut logins[..] else { panic!("{logins:?}") };
        let hashes = row.take_hashes();
        assert_eq!(hashes, [HASH]);
        assert!(!serde_saphyr::to_string(&*row).unwrap().contains("argon2"));
        let tenant = TenantId::new("t");
        let identity = row.identity(hashes, &tenant).unwrap();
        assert_eq!(identity, table.identity("alice@a.example"));
        for wrong in [vec![], vec!["plain".to_owned()]] {
            assert!(matches!(row.identity(wrong, &tenant), Err(RowError::Password { .. })));
        }
    }
}
