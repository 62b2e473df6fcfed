//! Who logs in: asked of the leader and opened at that moment.

use std::sync::Arc;

use async_trait::async_trait;
use domains::{Absence, Claimant, Identity, Logins, Table, Unknown};
use mail_types::Mailbox;
use nats::Cause;

use crate::class::Class;
use crate::keys;
use crate::loader::{Loaded, Loader, PROOF};

#[async_trait]
impl Logins for Loader {
    /// Hashes are not kept here: they are asked of the leader, which has to be there for mail to be
    /// accepted at all, and opened when they are compared.
    async fn find(&self, _: &Arc<Table>, login: &str) -> Result<Claimant, Unknown> {
        let loaded = self.loaded.borrow().clone();
        let loaded = loaded.ok_or_else(|| Unknown("no table is complete".to_owned()))?;
        let asked = tokio::time::timeout(PROOF, self.claimant(&loaded, login)).await;
        let asked = asked.unwrap_or_else(|late| Err(late.into()));
        asked.map_err(|error| Unknown(error.to_string()))
    }
}

impl Loader {
    /// Asks as much, at once, for a login that somebody has and for one that nobody has: how long
    /// it takes does not tell them apart.
    async fn claimant(&self, loaded: &Loaded, login: &str) -> Result<Claimant, Cause> {
        let address = Mailbox::parse(login).ok();
        let own = address.and_then(|it| keys::of_mailbox(&it)).filter(|key| loaded.has(key));
        let stand_in = loaded.stand_ins.of(login);
        let asked = own.as_deref().or(stand_in);
        let (found, is_proven) =
            tokio::join!(self.identity(loaded, asked), self.is_proven(&loaded.table));
        match (found?, own) {
            (Some(identity), Some(_)) => Ok(Claimant::Somebody(identity)),
            (_, _) if !is_proven => Err("the table is not certain".into()),
            (identity, None) => Ok(Claimant::Nobody(identity)),
            (None, Some(_)) => Ok(Claimant::Nobody(self.identity(loaded, stand_in).await?)),
        }
    }

    /// Who logs in by the row of a key.
    async fn identity(
        &self,
        loaded: &Loaded,
        key: Option<&str>,
    ) -> Result<Option<Identity>, Cause> {
        let Some(key) = key else { return Ok(None) };
        let Some((domain, _)) = keys::parse(key) else { return Ok(None) };
        let Some(tenant) = loaded.table.tenant_of(&domain) else { return Ok(None) };
        let versions = self.bucket.row(key).await?;
        let stored = versions.as_ref().and_then(|it| it.at(loaded.marker.generation));
        let Some(stored) = stored.filter(|stored| stored.row.has_login()) else { return Ok(None) };
        let Some(sealed) = stored.sealed.get(&Class::Passwords) else { return Ok(None) };
        let hashes = self.opener.open(Class::Passwords, key, sealed)?;
        Ok(stored.row.identity(serde_json::from_slice(&hashes)?, tenant)?)
    }
}

impl Loaded {
    fn has(&self, key: &str) -> bool {
        keys::parse(key).is_some_and(|(domain, name)| self.table.has(&domain, name.as_deref()))
    }
}
