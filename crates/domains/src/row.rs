//! A table in pieces that are kept and replaced one by one.

use std::collections::HashMap;
use std::fmt;

use mail_types::{Domain, Mailbox, TenantId};
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, key, name};
use crate::password;
use crate::table::{Declaration, Entry, Table};

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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_message_size_bytes: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        catch_all: Vec<Mailbox>,
    },
    Mailbox {
        address: Mailbox,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        login: Option<Login>,
    },
    Alias {
        domain: Domain,
        /// The local part, in lower case and without quotes.
        name: String,
        to: Vec<Mailbox>,
    },
}

/// How the owner of a mailbox logs in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Login {
    /// PHC strings.
    hashes: Vec<String>,
    /// The addresses it may send as, in the form in which they are compared.
    addresses: Vec<String>,
}

/// Rows that make no table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RowError {
    #[error("{0} is in no domain of the table")]
    Stray(String),
    #[error("{0} is there twice")]
    Twice(String),
    #[error("{address}: {problem}")]
    Password { address: String, problem: String },
}

impl Row {
    /// The domain that it is of.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain { domain, .. } | Self::Alias { domain, .. } => Some(domain),
            Self::Mailbox { address, .. } => address.domain(),
        }
    }

    /// The name in the domain; `None` for the domain itself. No two rows of a table have the same
    /// domain and name.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Domain { .. } => None,
            Self::Mailbox { address, .. } => Some(name(address.local_part())),
            Self::Alias { name, .. } => Some(name.clone()),
        }
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
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (domain, declaration) in &self.domains {
            rows.push(Row::Domain {
                domain: domain.clone(),
                inbound: declaration.inbound,
                tenant: declaration.tenant.clone(),
                max_message_size_bytes: declaration.max_message_size_bytes,
                catch_all: match &declaration.catch_all {
                    Some(Entry::Alias(to)) => to.clone(),
                    Some(Entry::Mailbox(own)) => vec![own.clone()],
                    None => Vec::new(),
                },
            });
            let entries = declaration.entries.iter();
            rows.extend(entries.map(|(name, entry)| self.row_of(domain, name, entry)));
        }
        rows
    }

    fn row_of(&self, domain: &Domain, name: &str, entry: &Entry) -> Row {
        match entry {
            Entry::Alias(to) => {
                Row::Alias { domain: domain.clone(), name: name.to_owned(), to: to.clone() }
            }
            Entry::Mailbox(address) => {
                let login = self.identities.get(&key(address)).map(|identity| Login {
                    hashes: identity.hashes.clone(),
                    addresses: identity.addresses.clone(),
                });
                Row::Mailbox { address: address.clone(), login }
            }
        }
    }

    /// Puts a table together again.
    ///
    /// # Errors
    /// The first row that does not fit. Rows of [`Table::rows`], all of them, do.
    pub fn from_rows<'a>(
        rows: impl IntoIterator<Item = &'a Row> + Clone,
        postmaster: Option<Mailbox>,
    ) -> Result<Self, RowError> {
        let mut table = Self { postmaster, ..Self::default() };
        for row in rows.clone() {
            table.put_domain(row)?;
        }
        for row in rows {
            table.put_entry(row)?;
        }
        Ok(table)
    }

    fn put_domain(&mut self, row: &Row) -> Result<(), RowError> {
        let Row::Domain { domain, inbound, tenant, max_message_size_bytes, catch_all } = row else {
            return Ok(());
        };
        let declaration = Declaration {
            inbound: *inbound,
            tenant: tenant.clone(),
            max_message_size_bytes: *max_message_size_bytes,
            entries: HashMap::new(),
            catch_all: (!catch_all.is_empty()).then(|| Entry::Alias(catch_all.clone())),
        };
        match self.domains.insert(domain.clone(), declaration) {
            None => Ok(()),
            Some(_) => Err(RowError::Twice(domain.to_string())),
        }
    }

    fn put_entry(&mut self, row: &Row) -> Result<(), RowError> {
        let Some(name) = row.name() else { return Ok(()) };
        let stray = || RowError::Stray(format!("{row:?}"));
        let domain = row.domain().ok_or_else(stray)?;
        let declaration = self.domains.get_mut(domain).ok_or_else(stray)?;
        let entry = match row {
            Row::Domain { .. } => return Ok(()),
            Row::Alias { to, .. } => Entry::Alias(to.clone()),
            Row::Mailbox { address, login } => {
                if let Some(login) = login {
                    let identity = login.identity(address, &declaration.tenant)?;
                    self.identities.insert(key(address), identity);
                }
                Entry::Mailbox(address.clone())
            }
        };
        match declaration.entries.insert(name, entry) {
            None => Ok(()),
            Some(_) => Err(RowError::Twice(format!("{row:?}"))),
        }
    }
}

impl Login {
    fn identity(&self, address: &Mailbox, tenant: &TenantId) -> Result<Identity, RowError> {
        let wrong = |problem| RowError::Password { address: address.to_string(), problem };
        for hash in &self.hashes {
            password::check(hash).map_err(wrong)?;
        }
        if self.hashes.is_empty() {
            return Err(wrong("has a login without a password".to_owned()));
        }
        Ok(Identity {
            login: address.to_string(),
            tenant: tenant.clone(),
            hashes: self.hashes.clone(),
            addresses: self.addresses.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Settings;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$cG9zdHJpZGVydGVzdCE$\
                        dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk";

    fn table() -> Table {
        let text = format!(
            "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
             metadata: {{name: a, namespace: t}}\nspec:\n  domain: a.example\n  inbound:\n    \
             maxMessageSizeBytes: 70000\n    catchAll: all@b.example\n    aliases:\n    \
             - {{match: postmaster, to: [Alice@a.example, \"\\\"x y\\\"@c.example\"]}}\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: b}}\n\
             spec:\n  domain: b.example\n  inbound: {{enabled: false}}\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\n\
             metadata: {{name: alice, namespace: t}}\nspec:\n  address: Alice@a.example\n  \
             aliases: [\"\\\"a b\\\"@a.example\"]\n  \
             passwords: [{{name: phone, hash: \"{HASH}\"}}]\n\
             ---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\n\
             metadata: {{name: bob, namespace: t}}\nspec: {{address: bob@a.example}}\n"
        );
        Table::from_yaml([("f", text.as_str())], &Settings::default()).unwrap()
    }

    #[test]
    fn a_table_survives_its_rows() {
        let table = table();
        let rows = table.rows();
        assert_eq!(rows.len(), 6);
        let text = serde_saphyr::to_string(&rows).unwrap();
        let read: Vec<Row> = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, rows);
        let again = Table::from_rows(&read, table.postmaster().cloned()).unwrap();
        assert_eq!(again.domains, table.domains);
        assert_eq!(again.identities, table.identities);
        assert_eq!(again.postmaster, table.postmaster);
        assert!(!format!("{rows:?}").contains("argon2"));
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let rows = table().rows();
        let is_domain = |row: &&Row| row.name().is_none();
        let stray: Vec<Row> = rows.iter().filter(|row| !is_domain(row)).cloned().collect();
        assert!(matches!(Table::from_rows(&stray, None), Err(RowError::Stray(_))));
        let twice: Vec<Row> = rows.iter().chain(&rows).cloned().collect();
        assert!(matches!(Table::from_rows(&twice, None), Err(RowError::Twice(_))));
        let weak = |row: &Row| match row {
            Row::Mailbox { address, login: Some(login) } => Row::Mailbox {
                address: address.clone(),
                login: Some(Login { hashes: vec!["plain".into()], ..login.clone() }),
            },
            Row::Mailbox { .. } | Row::Domain { .. } | Row::Alias { .. } => row.clone(),
        };
        let weak: Vec<Row> = rows.iter().map(weak).collect();
        assert!(matches!(Table::from_rows(&weak, None), Err(RowError::Password { .. })));
    }
}
