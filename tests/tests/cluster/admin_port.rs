//! The port of operators, of a worker: what the ingress took is seen there.

use anyhow::Result;
use tests::admin_port;
use tests::home::Kind;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_mail_is_seen_and_dropped_with_the_token_only() -> Result<()> {
    admin_port::check(Kind::Roles).await
}
