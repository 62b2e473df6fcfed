//! The streams, as they must be: created when they are not there, refused when they differ.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use futures::TryStreamExt;
use mail_types::Timestamp;
use queue::contract::Cause;

use crate::broker::Broker;
use crate::config::Config;
use crate::names::{Door, Intakes, Lane, RESERVE, body_stream, body_subject};
use crate::ownership;
use crate::shared::Shared;

/// Streams that content is spread over.
pub(crate) const BODY_STREAMS: u16 = 2;
/// A message published again within this is stored once.
const DUPLICATES: Duration = Duration::from_secs(600);

/// A stream that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(
        "stream {stream}: {setting} is {found}, but must be {wanted}: edit it with \
         `nats stream edit {stream}`, or delete it if it is empty"
    )]
    Differs { stream: String, setting: &'static str, found: String, wanted: String },
    #[error("stream {stream} cannot be asked for")]
    Ask {
        stream: String,
        #[source]
        source: Cause,
    },
    /// Not every role may: whoever may not waits for one that does.
    #[error("stream {stream} is not there, and cannot be created from here")]
    Create {
        stream: String,
        #[source]
        source: Cause,
    },
}

/// Creates what is missing and checks what is there.
pub(crate) async fn ensure(broker: &Broker, config: &Config) -> Result<(), StreamError> {
    for wanted in all(config) {
        ensure_one(broker, wanted).await?;
    }
    Ok(())
}

/// Of all streams that there may be.
pub(crate) fn names(partitions: u16) -> Vec<String> {
    let of = |replicas| all(&Config { partitions, replicas, ..Config::default() });
    let streams = of(1).into_iter().chain(of(3)).map(|stream| stream.name);
    streams.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The streams that mail comes into by a door.
pub(crate) fn of(config: &Config, door: Door) -> BTreeSet<String> {
    lanes(config).into_iter().map(|lane| door.stream(lane, config.intakes())).collect()
}

fn lanes(config: &Config) -> Vec<Lane> {
    config.all_partitions().map(Lane::Partition).chain([Lane::Split]).collect()
}

fn all(config: &Config) -> Vec<stream::Config> {
    let reserve = i64::try_from(config.reserve_bytes).unwrap_or(i64::MAX);
    let mut streams = intakes(config);
    streams.push(work_queue(config, RESERVE.to_owned(), "re.>".to_owned(), reserve));
    for partition in config.all_partitions() {
        streams.push(stream::Config {
            max_messages_per_subject: 1,
            allow_message_ttl: true,
            ..base(config, partition.jobs_stream(), format!("job.{partition}.>"))
        });
    }
    for number in 0..BODY_STREAMS {
        streams.push(base(config, body_stream(number), body_subject(number)));
    }
    streams.push(ownership::stream(config));
    streams
}

fn intakes(config: &Config) -> Vec<stream::Config> {
    let lanes = lanes(config);
    let max = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let each = config.intake_bytes / lanes.len() as u64;
    let of_lane = |lane: Lane| {
        let name = Door::Outside.stream(lane, Intakes::EachLane);
        work_queue(config, name, Door::Outside.filter(lane), max(each))
    };
    match config.intakes() {
        Intakes::EachLane => lanes.into_iter().map(of_lane).collect(),
        Intakes::One => {
            let name = Door::Outside.stream(Lane::Split, Intakes::One);
            vec![work_queue(config, name, "in.>".to_owned(), max(config.intake_bytes))]
        }
    }
}

fn base(config: &Config, name: String, subject: String) -> stream::Config {
    stream::Config {
        name,
        subjects: vec![subject],
        storage: StorageType::File,
        num_replicas: config.replicas,
        duplicate_window: DUPLICATES,
        allow_direct: true,
        ..Default::default()
    }
}

fn work_queue(config: &Config, name: String, subject: String, max_bytes: i64) -> stream::Config {
    stream::Config {
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_bytes,
        ..base(config, name, subject)
    }
}

pub(crate) async fn ensure_one(broker: &Broker, wanted: stream::Config) -> Result<(), StreamError> {
    if is_there(broker, &wanted).await? {
        return Ok(());
    }
    let stream = wanted.name.clone();
    match broker.context.create_stream(wanted).await {
        Ok(_) => Ok(()),
        Err(error) => Err(StreamError::Create { stream, source: error.into() }),
    }
}

/// The names of streams that are still to be created. What is there must be as it is wanted.
pub(crate) async fn missing(broker: &Broker, config: &Config) -> Result<Vec<String>, StreamError> {
    let mut missing = Vec::new();
    for wanted in all(config) {
        if !is_there(broker, &wanted).await? {
            missing.push(wanted.name);
        }
    }
    Ok(missing)
}

async fn is_there(broker: &Broker, wanted: &stream::Config) -> Result<bool, StreamError> {
    let error = match broker.context.get_stream(&wanted.name).await {
        Ok(found) => return compare(&found.cached_info().config, wanted).map(|()| true),
        Err(error) => error,
    };
    let is_absent = matches!(error.kind(), GetStreamErrorKind::JetStream(api)
        if api.error_code() == ErrorCode::STREAM_NOT_FOUND);
    if is_absent {
        return Ok(false);
    }
    Err(StreamError::Ask { stream: wanted.name.clone(), source: error.into() })
}

/// What mail depends on must be as wanted; the rest is the operator's.
fn compare(found: &stream::Config, wanted: &stream::Config) -> Result<(), StreamError> {
    // A limit without a value is written as -1 by some and as 0 by others.
    let limit = |value: i64| value.max(0).to_string();
    let stream = wanted.name.clone();
    for (setting, found, wanted) in [
        ("retention", format!("{:?}", found.retention), format!("{:?}", wanted.retention)),
        ("discard", format!("{:?}", found.discard), format!("{:?}", wanted.discard)),
        ("storage", format!("{:?}", found.storage), format!("{:?}", wanted.storage)),
        ("subjects", format!("{:?}", found.subjects), format!("{:?}", wanted.subjects)),
        ("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string()),
        ("max_age", format!("{:?}", found.max_age), format!("{:?}", wanted.max_age)),
        ("max_bytes", limit(found.max_bytes), limit(wanted.max_bytes)),
        ("max_msgs", limit(found.max_messages), limit(wanted.max_messages)),
        (
            "max_msgs_per_subject",
            limit(found.max_messages_per_subject),
            limit(wanted.max_messages_per_subject),
        ),
    ] {
        if found != wanted {
            return Err(StreamError::Differs { stream, setting, found, wanted });
        }
    }
    Ok(())
}

/// The consumer by which a lane's messages of a door are pulled.
pub(crate) async fn consumer(
    shared: &Shared,
    door: Door,
    lane: Lane,
) -> Result<PullConsumer, Cause> {
    let stream = shared.broker.context.get_stream_no_info(shared.stream(door, lane)).await?;
    let name = lane.to_string();
    let config = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: door.filter(lane),
        ack_policy: AckPolicy::Explicit,
        ack_wait: shared.config.ack_wait(),
        max_deliver: -1,
        max_ack_pending: -1,
        memory_storage: true,
        ..Default::default()
    };
    Ok(stream.get_or_create_consumer(&name, config).await?)
}

/// Octets of all streams, on one server.
pub(crate) async fn size(shared: &Shared) -> Result<u64, Cause> {
    let mut size = 0;
    for config in all(&shared.config) {
        size += state(shared, &config.name).await?.bytes;
    }
    Ok(size)
}

/// What a stream holds, as its leader knows it.
pub(crate) async fn state(shared: &Shared, stream: &str) -> Result<stream::State, Cause> {
    let stream = shared.broker.context.get_stream(stream).await?;
    Ok(stream.cached_info().state.clone())
}

/// Messages of a lane that were not acknowledged, whoever has them.
pub(crate) async fn undone(shared: &Shared, door: Door, lane: Lane) -> Result<u64, Cause> {
    let stream = shared.broker.context.get_stream_no_info(shared.stream(door, lane)).await?;
    let info = stream.consumer_info(lane.to_string()).await?;
    Ok(info.num_pending + info.num_ack_pending as u64)
}

/// When the first message that a stream still has was stored.
pub(crate) async fn oldest(shared: &Shared, stream: &str) -> Result<Option<Timestamp>, Cause> {
    let state = state(shared, stream).await?;
    let first = i64::try_from(state.first_timestamp.unix_timestamp_nanos() / 1_000_000)?;
    Ok((state.messages > 0).then(|| Timestamp::from_unix_ms(first)))
}

/// The subjects of which a stream has messages.
pub(crate) async fn subjects(shared: &Shared, stream: &str) -> Result<Vec<String>, Cause> {
    let stream = shared.broker.context.get_stream(stream).await?;
    let subjects = stream.info_with_subjects(">").await?;
    let subjects: Vec<(String, usize)> = subjects.try_collect().await?;
    Ok(subjects.into_iter().map(|(subject, _)| subject).collect())
}
