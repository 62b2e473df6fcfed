//! Whom a password is compared with.

use std::sync::Arc;

use async_trait::async_trait;

use crate::absence::AtHome;
use crate::identity::Identity;
use crate::table::Table;

/// Finds who logs in, wherever hashes of passwords are kept.
#[async_trait]
pub trait Logins: Send + Sync {
    /// # Errors
    /// It is not known at the moment: no reason to call a password wrong.
    async fn find(&self, table: &Arc<Table>, login: &str) -> Result<Claimant, Unknown>;
}

/// Whom a name is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claimant {
    Somebody(Identity),
    /// With somebody, if there is anybody, whose passwords are tried in vain: as much work, and
    /// always the same for the same name.
    Nobody(Option<Identity>),
}

/// Why it is not known who logs in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

#[async_trait]
impl Logins for AtHome {
    async fn find(&self, table: &Arc<Table>, login: &str) -> Result<Claimant, Unknown> {
        Ok(match table.identity(login) {
            Some(identity) => Claimant::Somebody(identity),
            None => Claimant::Nobody(table.stand_in(login)),
        })
    }
}
