//! Mail to test with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use mail_types::{
    BodyType, Envelope, Mailbox, Origin, QueueId, Recipient, ReversePath, TenantId, Timestamp,
};
use queue::{
    AcceptError, Admission, ContentError, Disposition, Head, HopKind, Lease, NewJob, NextHop,
    Queue, Settlement, Wait,
};

use crate::disk::SimDisk;
use crate::{Config, LogQueue, Metrics};

pub(crate) const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

pub(super) fn small_segments() -> Config {
    Config {
        segment_bytes: 128 << 10,
        inline_body_bytes: 16 << 10,
        min_free_bytes: 0,
        ..Config::default()
    }
}

pub(super) fn open(disk: &SimDisk, config: &Config) -> LogQueue {
    let disk = Arc::new(disk.clone());
    LogQueue::on(disk, config.clone(), Metrics::default(), Box::new(|| NOW)).unwrap()
}

pub(crate) fn envelope() -> Envelope {
    Envelope {
        reverse_path: ReversePath::parse("sender@example.org").unwrap(),
        envid: None,
        ret: None,
        body: BodyType::EightBitMime,
        smtputf8: false,
        arrival: NOW,
        expires: NOW + Duration::from_secs(432_000),
        tenant: TenantId::new("acme"),
        identity: None,
        origin: Origin::Internal,
        trace_parent: None,
    }
}

pub(super) fn head() -> Head {
    Head {
        prefix: Bytes::from_static(b"Received: from a by b\r\n"),
        header: Bytes::from_static(b"Subject: a test\r\n\r\n"),
    }
}

pub(crate) fn job() -> NewJob {
    job_for("user@example.net")
}

pub(super) fn job_for(address: &str) -> NewJob {
    let recipient = Recipient::new(Mailbox::parse(address).unwrap());
    NewJob::new(NextHop::smtp(recipient.address.host()), vec![recipient])
}

/// A body of `size` octets that no other `n` has.
pub(super) fn body(n: usize, size: usize) -> Bytes {
    (0..size).map(|at| (n * 31 + at % 251) as u8).collect()
}

/// Sends a message; gives its id, and what became of it.
pub(super) async fn send(queue: &dyn Queue, body: Bytes) -> (QueueId, Result<(), AcceptError>) {
    let mut draft = match queue.begin(envelope(), Admission::Outside).await {
        Ok(draft) => draft,
        Err(error) => return (QueueId::from_bytes([0; 16]), Err(error)),
    };
    let sent = match draft.write(body).await {
        Ok(()) => draft.commit(head(), vec![job()]).await,
        Err(error) => Err(error),
    };
    (draft.id(), sent)
}

/// All that may be leased now.
pub(super) async fn lease_all(queue: &dyn Queue) -> Vec<Box<dyn Lease>> {
    let mut all = Vec::new();
    while queue.stats().await.unwrap().ready > 0 {
        all.extend(queue.lease(HopKind::Smtp, 1000, usize::MAX).await.unwrap());
    }
    all
}

pub(super) async fn read(lease: &dyn Lease) -> Result<Vec<u8>, ContentError> {
    let mut content = lease.content().await?;
    let mut octets = Vec::new();
    while let Some(chunk) = content.chunks.next().await {
        octets.extend_from_slice(&chunk?);
    }
    assert_eq!(octets.len() as u64, content.size);
    Ok(octets)
}

pub(super) fn content(body: &[u8]) -> Vec<u8> {
    let head = head();
    [&head.prefix[..], &head.header, body].concat()
}

pub(super) fn done() -> Settlement {
    Settlement {
        attempt: None,
        progress: Vec::new(),
        disposition: Disposition::Done,
        follow_ups: Vec::new(),
        delay_reported: false,
    }
}

pub(super) fn defer() -> Settlement {
    let until = NOW + Duration::from_secs(3600);
    let disposition = Disposition::Defer { until, wake_by: until, waiting_for: Wait::Time };
    Settlement { disposition, ..done() }
}
