//! Only a proven absence is a `550`.

use std::sync::Arc;

use async_trait::async_trait;

use crate::table::Table;

/// Tells whether what a table lacks does not exist, or is only not known here yet.
#[async_trait]
pub trait Absence: Send + Sync {
    /// Whether `table` is what is in force wherever tables are published, asked now. When that
    /// cannot be found out, it is not.
    async fn is_proven(&self, table: &Arc<Table>) -> bool;
}

/// For tables that are compiled where they are used: what they lack does not exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtHome;

#[async_trait]
impl Absence for AtHome {
    async fn is_proven(&self, _: &Arc<Table>) -> bool {
        true
    }
}
