//! Which of the replicas acts: the one that holds the Lease.

use anyhow::Context;
use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

/// After so many seconds without a word of its holder another takes the Lease.
const DURATION_SECONDS: u64 = 15;
/// So many seconds before that the holder says that it is there.
const GRACE_SECONDS: u64 = 10;

/// Asks for the Lease as long as it is held.
pub(crate) struct Leadership {
    pub(crate) leads: Receiver<bool>,
    asking: JoinHandle<kube_lease_manager::Result<LeaseManager>>,
}

impl Leadership {
    pub(crate) async fn ask(client: Client, namespace: &str, name: String) -> anyhow::Result<Self> {
        let built = LeaseManagerBuilder::new(client, name)
            .with_namespace(namespace)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .with_field_manager("postrider-operator")
            .build();
        let (leads, asking) = built.await.context("the Lease cannot be asked for")?.watch().await;
        Ok(Self { leads, asking })
    }

    /// Lets another have it at once.
    pub(crate) async fn release(self) {
        drop(self.leads);
        if !matches!(self.asking.await, Ok(Ok(_))) {
            tracing::warn!(event = "lease_kept", "another replica waits until it lapses");
        }
    }
}
