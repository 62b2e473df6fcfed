//! What is refused, and what never is.

use super::mail::{Mail, done};
use super::trial::Trial;
use super::{Harness, Settings};
use crate::contract::{AcceptError, Admission};
use crate::schedule::Usage;

pub async fn a_tenant_has_its_quota<H: Harness>() {
    let quota = Usage { messages: 3, bytes: 100_000 };
    let mut trial = Trial::<H>::with(Settings { quota, ..Settings::default() }).await;
    let small = Mail::to("a.example").of("small");
    for _ in 0..3 {
        trial.send(&small).await;
    }
    trial.harness.crash().await;
    let fourth = trial.try_send(&small).await;
    assert!(matches!(fourth, Err(AcceptError::TenantQuota)), "{fourth:?}");
    let large = Mail::to("a.example").of("large").body(vec![b'x'; 100_001]);
    let refused = trial.try_send(&large).await;
    assert!(matches!(refused, Err(AcceptError::TenantQuota)), "{refused:?}");
    trial.send(&Mail::to("a.example").of("other")).await;
    let envelope = small.envelope(trial.now());
    let mut forward = trial.queue().begin(envelope, Admission::Internal).await.unwrap();
    forward.commit(small.head.clone(), small.jobs.clone()).await.unwrap();
    for mut lease in trial.lease_all(100).await {
        lease.settle(&done()).await.unwrap();
    }
    trial.send(&small).await;
}

pub async fn a_full_store_refuses_and_drains<H: Harness>() {
    let settings = Settings { limit_bytes: 8 << 20, reserve_bytes: 8 << 20, ..Settings::default() };
    let mut trial = Trial::<H>::with(settings).await;
    let mail = Mail::to("a.example").body(vec![b'x'; 64 * 1024]);
    let mut accepted = 0;
    let refused = loop {
        match trial.try_send(&mail).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "a store of 8 MiB has no room for 64 MiB");
    };
    assert!(matches!(refused, AcceptError::Full), "{refused:?}");
    assert!(accepted >= 32, "{accepted} messages filled the store");
    trial.harness.crash().await;
    let leases = trial.lease_all(1000).await;
    assert_eq!(leases.len(), accepted, "nothing accepted is lost");
    for mut lease in leases {
        let settlement = done().with_dsn("sender.example", trial.now());
        lease.settle(&settlement).await.expect("a full store can drain");
    }
    for mut lease in trial.lease_all(1000).await {
        assert!(lease.job().envelope.reverse_path.is_null(), "a DSN");
        lease.settle(&done()).await.unwrap();
    }
    super::trial::soon(async {
        // A backend may take its time to free what is not used any more.
        while trial.try_send(&mail).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
