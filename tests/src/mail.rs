//! Mail and settlements for tests that use a queue without SMTP.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use mail_types::{BodyType, Envelope, Host, Mailbox, Origin, Recipient, ReversePath, TenantId};
use queue::{
    Admission, Disposition, Draft, Head, HopKind, Lease, NewJob, NextHop, Queue, Settlement,
};

/// How long a job is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// The header of each message that [`send`] makes.
pub const HEADER: &str = "Subject: x\r\n\r\n";

/// From `sender@example.org`, of the tenant `t`, good for an hour.
pub fn envelope() -> Result<Envelope> {
    let arrival = runtime::clock::now();
    Ok(Envelope {
        reverse_path: ReversePath::parse("sender@example.org")?,
        envid: None,
        ret: None,
        body: BodyType::EightBitMime,
        smtputf8: false,
        arrival,
        expires: arrival + Duration::from_secs(3600),
        tenant: TenantId::new("t"),
        identity: None,
        origin: Origin::Internal,
        trace_parent: None,
    })
}

/// A message with its body, not yet committed.
pub async fn draft(queue: &dyn Queue, body: Bytes) -> Result<Box<dyn Draft>> {
    let mut draft = queue.begin(envelope()?, Admission::Outside).await?;
    draft.write(body).await?;
    Ok(draft)
}

/// Queues a message for `u@DOMAIN`.
pub async fn send(queue: &dyn Queue, domain: &str, body: Bytes) -> Result<()> {
    send_to(queue, &[domain], body).await
}

/// Queues one for somebody in each of these domains.
pub async fn send_to(queue: &dyn Queue, domains: &[&str], body: Bytes) -> Result<()> {
    let job = |domain: &&str| {
        let recipients = vec![Recipient::new(Mailbox::parse(&format!("u@{domain}"))?)];
        anyhow::Ok(NewJob::new(NextHop::smtp(&Host::parse(domain)?), recipients))
    };
    let jobs = domains.iter().map(job).collect::<Result<_>>()?;
    let head = Head { prefix: Bytes::new(), header: HEADER.into() };
    Ok(draft(queue, body).await?.commit(head, jobs).await?)
}

/// The next job for a next hop by SMTP.
pub async fn lease(queue: &dyn Queue) -> Result<Box<dyn Lease>> {
    let leases = tokio::time::timeout(LIMIT, queue.lease(HopKind::Smtp, 1, 1)).await??;
    leases.into_iter().next().context("a lease")
}

/// One that says nothing of recipients.
pub fn settlement(disposition: Disposition) -> Settlement {
    Settlement {
        attempt: None,
        progress: Vec::new(),
        disposition,
        follow_ups: Vec::new(),
        delay_reported: false,
    }
}
