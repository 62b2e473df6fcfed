//! What the command line asks of this process.

use std::sync::Arc;

use admin::process::{Process, Reloaded, Snapshot};
use async_trait::async_trait;

use crate::backup::snapshot::Snapshots;
use crate::reload::Reloading;

/// The process as it is asked.
pub(crate) struct Control {
    reloading: Reloading,
    snapshots: Arc<Snapshots>,
}

impl Control {
    pub(crate) fn new(reloading: Reloading, snapshots: Arc<Snapshots>) -> Self {
        Self { reloading, snapshots }
    }
}

#[async_trait]
impl Process for Control {
    async fn reload(&self) -> Result<Reloaded, String> {
        let changed = self.reloading.reload().await?;
        Ok(Reloaded { changed })
    }

    async fn take_snapshot(&self) -> Result<Snapshot, String> {
        self.snapshots.take().await
    }

    fn keep_snapshot(&self, id: u64) -> Result<(), String> {
        self.snapshots.keep(id)
    }

    fn end_snapshot(&self, id: u64) -> Result<(), String> {
        self.snapshots.end(id)
    }
}
