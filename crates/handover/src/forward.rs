//! What is written in front of a message that an alias of ours leads elsewhere.

use bytes::Bytes;
use futures::{StreamExt, future, stream};
use message::trace;
use queue::{Content, ContentError, Job, Lease};

/// Delivered-To with the alias (RFC 9228): should the message come back to it, it loops.
///
/// It asks nothing of the next hop: beyond ASCII it is only where the message goes under SMTPUTF8.
/// What was sent to such an alias needs that; where its header does not, and the next hop does not
/// know it, a loop ends by the number of Received fields.
fn field(job: &Job, smtputf8: bool) -> Option<Bytes> {
    let alias = &job.forward.as_ref()?.delivered_to;
    (alias.is_ascii() || smtputf8).then(|| trace::delivered_to(alias).into())
}

/// Octets of the content as it is sent, under SMTPUTF8 or not.
pub(crate) fn size(job: &Job, smtputf8: bool) -> u64 {
    job.size + field(job, smtputf8).map_or(0, |field| field.len() as u64)
}

/// The content as it is sent, under SMTPUTF8 or not.
pub(crate) async fn content(
    lease: &dyn Lease,
    job: &Job,
    smtputf8: bool,
) -> Result<Content, ContentError> {
    let content = lease.content().await?;
    let Some(field) = field(job, smtputf8) else { return Ok(content) };
    let size = content.size + field.len() as u64;
    let chunks = stream::once(future::ready(Ok(field))).chain(content.chunks).boxed();
    Ok(Content { size, chunks })
}
