//! Last uses in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use senders::{LastUseStore, LastUses, Unstored};

#[derive(Default)]
pub(super) struct LastUseMemory(Mutex<BTreeMap<String, LastUses>>);

#[async_trait]
impl LastUseStore for LastUseMemory {
    async fn add(&self, uses: &BTreeMap<String, LastUses>) -> Result<(), Unstored> {
        let mut kept = self.0.lock().unwrap();
        for (login, uses) in uses {
            kept.entry(login.clone()).or_default().merge(uses.clone());
        }
        Ok(())
    }

    async fn of(&self, login: &str) -> Result<LastUses, Unstored> {
        Ok(self.0.lock().unwrap().get(login).cloned().unwrap_or_default())
    }
}
