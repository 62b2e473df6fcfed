//! What a stream's leader is asked, and told.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind};
use async_nats::jetstream::{Context, ErrorCode};
use serde_json::json;

use crate::Cause;

/// The last message of a subject, as the leader knows it.
///
/// # Errors
/// Nothing is known.
pub async fn last(
    context: &Context,
    stream: &str,
    subject: &str,
) -> Result<Option<StreamMessage>, Cause> {
    let handle = context.get_stream_no_info(stream).await?;
    match handle.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) => absent(error),
    }
}

/// `None` when the leader says that there is no such message.
///
/// # Errors
/// Anything else.
pub fn absent<T>(error: RawMessageError) -> Result<Option<T>, Cause> {
    match error.kind() {
        RawMessageErrorKind::NoMessageFound => Ok(None),
        RawMessageErrorKind::InvalidSubject
        | RawMessageErrorKind::JetStream(_)
        | RawMessageErrorKind::Other => Err(error.into()),
    }
}

/// Whether an error of [`last`] says that the stream is not there.
pub fn is_no_stream(error: &Cause) -> bool {
    let Some(error) = error.downcast_ref::<RawMessageError>() else { return false };
    match error.kind() {
        RawMessageErrorKind::JetStream(api) => api.error_code() == ErrorCode::STREAM_NOT_FOUND,
        RawMessageErrorKind::NoMessageFound
        | RawMessageErrorKind::InvalidSubject
        | RawMessageErrorKind::Other => false,
    }
}

/// Forgets a message. It may be gone already.
///
/// # Errors
/// It may still be there.
pub async fn delete(context: &Context, stream: &str, sequence: u64) -> Result<(), Cause> {
    let subject = format!("STREAM.MSG.DELETE.{stream}");
    let wanted = json!({"seq": sequence, "no_erase": true});
    let _: serde_json::Value = context.request(subject, &wanted).await?;
    Ok(())
}
