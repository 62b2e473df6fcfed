//! Which of the replicas acts: the one that holds the Lease.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

/// After so many seconds without a word of its holder another takes the Lease.
const DURATION_SECONDS: u64 = 15;
/// So many seconds before that the holder says that it is there.
const GRACE_SECONDS: u64 = 10;

/// What giving it back may take.
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// The Lease, as a replica that may hold it sees it.
#[derive(Clone)]
pub(crate) struct Lease {
    leases: Api<LeaseObject>,
    name: String,
    /// Of this replica, since it began.
    identity: String,
}

impl Lease {
    pub(crate) fn new(client: Client, namespace: &str, name: String) -> Self {
        let identity = format!("{name}-{:016x}", rand::random::<u64>());
        Self { leases: Api::namespaced(client, namespace), name, identity }
    }

    /// Asks the API server whether this replica leads: whoever cannot ask may have been replaced.
    ///
    /// # Errors
    /// It does not lead, or nobody can tell.
    pub(crate) async fn confirm(&self) -> anyhow::Result<()> {
        let lease = self.leases.get(&self.name).await.context("the Lease cannot be read")?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        anyhow::ensure!(holder.as_deref() == Some(&self.identity), "another replica leads");
        Ok(())
    }
}

/// Asks for the Lease as long as it is held.
pub(crate) struct Leadership {
    pub(crate) leads: Receiver<bool>,
    asking: JoinHandle<kube_lease_manager::Result<LeaseManager>>,
}

impl Leadership {
    pub(crate) async fn ask(client: Client, lease: &Lease) -> anyhow::Result<Self> {
        let namespace = lease.leases.namespace().unwrap_or_default();
        let built = LeaseManagerBuilder::new(client, &lease.name)
            .with_namespace(namespace)
            .with_identity(&lease.identity)
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
        let released = tokio::time::timeout(RELEASE_MAX, self.asking).await;
        if !matches!(released, Ok(Ok(Ok(_)))) {
            tracing::warn!(event = "lease_kept", "another replica waits until it lapses");
        }
    }
}
