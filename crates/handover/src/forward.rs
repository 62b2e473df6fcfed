//! What is written in front of a message that an alias of ours leads elsewhere.

use bytes::Bytes;
use futures::{StreamExt, future, stream};
use message::trace;
use queue::{Content, ContentError, Job, Lease};

/// Delivered-To with the alias (RFC 9228): should the message come back to it, it loops.
///
/// Only in ASCII, so that it asks nothing of the next hop; a loop over another alias ends by the
/// number of its Received fields.
fn field(job: &Job) -> Option<Bytes> {
    let alias = &job.forward.as_ref()?.delivered_to;
    alias.is_ascii().then(|| trace::delivered_to(alias).into())
}

/// Octets of the content as it is sent.
pub(crate) fn size(job: &Job) -> u64 {
    job.size + field(job).map_or(0, |field| field.len() as u64)
}

/// The content as it is sent.
pub(crate) async fn content(lease: &dyn Lease, job: &Job) -> Result<Content, ContentError> {
    let content = lease.content().await?;
    let Some(field) = field(job) else { return Ok(content) };
    let size = content.size + field.len() as u64;
    let chunks = stream::once(future::ready(Ok(field))).chain(content.chunks).boxed();
    Ok(Content { size, chunks })
}
