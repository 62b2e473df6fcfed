//! The passwords of those who log in to this process, for operators.

use std::sync::Arc;

use admin::PasswordView;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use domains::{Claimant, Logins, Table, password};
use senders::LastUseStore;

/// Knows names and schemes by the domain table, and last uses by their store.
pub(crate) struct Passwords {
    pub(crate) table: Arc<ArcSwapOption<Table>>,
    pub(crate) logins: Arc<dyn Logins>,
    pub(crate) last_uses: Arc<dyn LastUseStore>,
}

#[async_trait]
impl admin::Passwords for Passwords {
    async fn of(&self, login: &str) -> Result<Option<Vec<PasswordView>>, String> {
        let table = self.table.load_full().ok_or("no complete domain table was seen yet")?;
        let found = self.logins.find(&table, login).await;
        let identity = match found.map_err(|unknown| unknown.to_string())? {
            Claimant::Somebody(identity) => identity,
            Claimant::Nobody(_) => return Ok(None),
        };
        let uses = self.last_uses.of(identity.login()).await;
        let uses = uses.map_err(|error| format!("last uses: {error}"))?;
        let view = |(name, hash): (&str, &str)| {
            let last_use = uses.of(name);
            PasswordView {
                name: name.to_owned(),
                scheme: password::scheme(hash).unwrap_or_default().to_owned(),
                last_use: last_use.map(|last_use| last_use.at),
                listener: last_use.map(|last_use| last_use.by.clone()),
            }
        };
        Ok(Some(identity.passwords().map(view).collect()))
    }
}
