//! Which mailboxes are full or nearly so, told by MDAs and heard by ingresses.
//!
//! ```text
//! bucket `mailboxes`, history 1, forgets after an hour
//!   full.ID     the address of a mailbox that is full; before it, of one that is nearly so, the
//!               octets that it has room for and a space; empty when there is room enough
//! ```
//!
//! Changes are written, and each such mailbox again every 20 minutes: a million mailboxes with room
//! cost nothing. What nobody says again is forgotten, by the bucket and by those who heard it:
//! without an MDA mail is accepted, and waits in the queue.
//!
//! An MDA that starts takes over what others left, and finds out what is still true of it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::kv::{Entry, Operation};
use async_nats::jetstream::stream::{self, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use domains::{FullMailboxes, LittleRoom, StorageId};
use futures::StreamExt;
use mail_types::Mailbox;
use nats::{Cause, Publish};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Buckets;

const BUCKET: &str = "mailboxes";
const STREAM: &str = "KV_mailboxes";
/// How long the bucket believes that a mailbox is full.
const BELIEVED: Duration = Duration::from_secs(3600);
/// When it is told again: twice may fail.
const AGAIN: Duration = Duration::from_secs(1200);
/// Between two looks at what has changed here.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at what is to be told again, or to be forgotten.
const REVIEW: Duration = Duration::from_secs(30);
/// How long a watch is relied on, which may have come to rest without a word. Then all is heard
/// again.
const WATCHED: Duration = Duration::from_secs(600);
/// How long it is believed by whoever heard it.
const HEARD: Duration = Duration::from_secs(1300);
/// Between two tries to reach the bucket.
const RETRY: Duration = Duration::from_secs(2);

/// Writes what is in `full` to the bucket until `stop`, once it has put what it finds there into
/// `full`.
pub async fn tell_full(config: Buckets, full: &FullMailboxes, stop: CancellationToken) {
    let work = async {
        loop {
            let Err(error) = tell(&config, full).await;
            tracing::debug!(%error, "it cannot be told which mailboxes are full");
            sleep(RETRY).await;
        }
    };
    // Boxed: the client library's futures are large, and there is one.
    stop.run_until_cancelled(Box::pin(work)).await;
}

/// Puts into `full` what MDAs tell, until `stop`.
pub async fn hear_full(config: Buckets, full: &FullMailboxes, stop: CancellationToken) {
    let work = async {
        let mut heard = Heard { full, at: HashMap::new() };
        loop {
            let Err(error) = hear(&config, &mut heard).await;
            tracing::debug!(%error, "it is not heard which mailboxes are full");
            heard.forget(Instant::now());
            sleep(RETRY).await;
        }
    };
    stop.run_until_cancelled(Box::pin(work)).await;
}

async fn tell(config: &Buckets, full: &FullMailboxes) -> Result<Infallible, Cause> {
    let bucket = Bucket::connect(config).await?;
    bucket.ensure().await?;
    // Keys take their time only if there are many: as long as a server says something.
    let mut told = timeout(WATCHED, bucket.take_over(full)).await??;
    let (mut seen, mut reviewed) = (None, Instant::now());
    loop {
        let changes = full.changes();
        if seen != Some(changes) || reviewed.elapsed() >= REVIEW {
            bucket.write(full, &mut told).await?;
            (seen, reviewed) = (Some(changes), Instant::now());
        }
        sleep(LOOK).await;
    }
}

async fn hear(config: &Buckets, heard: &mut Heard<'_>) -> Result<Infallible, Cause> {
    let bucket = Bucket::connect(config).await?;
    let mut reviews = interval(REVIEW);
    loop {
        let store = bucket.context.get_key_value(BUCKET).await?;
        let mut watch = store.watch_with_history(">").await?;
        let until = Instant::now() + WATCHED;
        while Instant::now() < until {
            // Cancel-safe: an entry that was not taken is still in the watch.
            tokio::select! {
                entry = watch.next() => heard.take(&entry.ok_or("the watch ended")??),
                _ = reviews.tick() => heard.forget(Instant::now()),
            }
        }
    }
}

/// What was told of each mailbox, and when; `None` of those that others told.
type Told = HashMap<StorageId, Option<(u64, Instant)>>;

struct Bucket<'a> {
    client: Client,
    context: Context,
    config: &'a Buckets,
}

impl<'a> Bucket<'a> {
    /// Servers may come later.
    async fn connect(config: &'a Buckets) -> Result<Self, Cause> {
        let options = config.options().await.map(ConnectOptions::retry_on_initial_connect)?;
        let client = options.connect(config.urls.clone()).await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(config.timeout);
        Ok(Self { client, context, config })
    }

    async fn ensure(&self) -> Result<(), Cause> {
        let error = match self.context.get_stream(STREAM).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let is_absent = matches!(error.kind(), GetStreamErrorKind::JetStream(api)
            if api.error_code() == ErrorCode::STREAM_NOT_FOUND);
        if !is_absent {
            return Err(error.into());
        }
        self.context.create_stream(stream(self.config.replicas)).await?;
        Ok(())
    }

    /// What others told is taken for true: whoever stores mail looks soon whether it is.
    async fn take_over(&self, full: &FullMailboxes) -> Result<Told, Cause> {
        let store = self.context.get_key_value(BUCKET).await?;
        let (mut keys, mut told) = (store.keys().await?, Told::new());
        while let Some(key) = keys.next().await {
            let key = key?;
            let Some(value) = store.get(&key).await? else { continue };
            if let (Some(id), Some(known)) = (id_of(&key), read(&value)) {
                full.note(id, &known.address, known.room_bytes);
                told.insert(id, None);
            }
        }
        Ok(told)
    }

    /// Brings the bucket to what is in `full`.
    async fn write(&self, full: &FullMailboxes, told: &mut Told) -> Result<(), Cause> {
        let all: HashMap<StorageId, LittleRoom> = full.all().into_iter().collect();
        let past: Vec<StorageId> =
            told.keys().filter(|id| !all.contains_key(id)).copied().collect();
        for id in past {
            self.put(id, Bytes::new()).await?;
            told.remove(&id);
        }
        for (id, known) in all {
            let told_before = told.get(&id).copied().flatten();
            let is_true =
                |(room, at): (u64, Instant)| room == known.room_bytes && at.elapsed() < AGAIN;
            if !told_before.is_some_and(is_true) {
                self.put(id, written(&known).into()).await?;
                told.insert(id, Some((known.room_bytes, Instant::now())));
            }
        }
        Ok(())
    }

    async fn put(&self, id: StorageId, value: Bytes) -> Result<(), Cause> {
        let put = Publish::unnamed(format!("$KV.{BUCKET}.{}", key_of(id)), value);
        nats::publish(&self.client, put, self.config.timeout).await?;
        Ok(())
    }
}

fn stream(replicas: usize) -> stream::Config {
    stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        max_messages_per_subject: 1,
        max_age: BELIEVED,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Default::default()
    }
}

fn key_of(id: StorageId) -> String {
    format!("full.{id}")
}

fn id_of(key: &str) -> Option<StorageId> {
    key.strip_prefix("full.")?.parse().ok()
}

fn written(LittleRoom { address, room_bytes }: &LittleRoom) -> String {
    match room_bytes {
        // As versions read it that know full mailboxes only; to them another has room.
        0 => address.to_string(),
        room_bytes => format!("{room_bytes} {address}"),
    }
}

/// `None` of a mailbox that has room enough.
fn read(value: &[u8]) -> Option<LittleRoom> {
    let text = std::str::from_utf8(value).ok()?;
    // An address with a space in it begins with a quote.
    let nearly = text.split_once(' ').and_then(|(room, rest)| Some((room.parse().ok()?, rest)));
    let (room_bytes, address) = nearly.unwrap_or((0, text));
    Some(LittleRoom { address: Mailbox::parse(address).ok()?, room_bytes })
}

/// What was told, and when it was heard last.
struct Heard<'a> {
    full: &'a FullMailboxes,
    at: HashMap<StorageId, Instant>,
}

impl Heard<'_> {
    fn take(&mut self, entry: &Entry) {
        let Some(id) = id_of(&entry.key) else { return };
        let is_put = entry.operation == Operation::Put;
        let known = read(&entry.value).filter(|_| is_put);
        self.hear(id, known.as_ref(), Instant::now());
    }

    fn hear(&mut self, id: StorageId, known: Option<&LittleRoom>, now: Instant) {
        match known {
            Some(known) => self.full.note(id, &known.address, known.room_bytes),
            None => self.full.remove(&id),
        }
        // There may be more than are remembered.
        match self.full.room_bytes(&id) {
            Some(_) => drop(self.at.insert(id, now)),
            None => drop(self.at.remove(&id)),
        }
    }

    fn forget(&mut self, now: Instant) {
        self.at.retain(|id, at| {
            let is_believed = now.duration_since(*at) < HEARD;
            if !is_believed {
                self.full.remove(id);
            }
            is_believed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_ids() {
        let id = StorageId::of(&"alice@example.org".parse().unwrap()).unwrap();
        assert_eq!(id_of(&key_of(id)), Some(id));
        for wrong in ["full.", "full.alice", "marker", &format!("free.{id}"), &id.to_string()] {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_told_is_heard() {
        for (address, room_bytes, text) in [
            ("alice@example.org", 0, "alice@example.org"),
            ("alice@example.org", 17, "17 alice@example.org"),
            ("\"a b\"@example.org", 0, "\"a b\"@example.org"),
            ("\"1 a\"@example.org", 7, "7 \"1 a\"@example.org"),
        ] {
            let known = LittleRoom { address: address.parse().unwrap(), room_bytes };
            assert_eq!(written(&known), text);
            assert_eq!(read(text.as_bytes()), Some(known));
        }
        for nothing in
            [&b""[..], b"\xff@a.example", b"7", b"7 ", b"x a@b.example", b"-1 a@b.example"]
        {
            assert_eq!(read(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn what_is_not_said_again_is_forgotten() {
        let (full, now) = (FullMailboxes::default(), Instant::now());
        let [alice, bob] = ["a@d.example", "b@d.example"]
            .map(|it| LittleRoom { address: it.parse().unwrap(), room_bytes: 0 });
        let [a, b] = [&alice, &bob].map(|known| StorageId::of(&known.address).unwrap());
        let mut heard = Heard { full: &full, at: HashMap::new() };
        heard.hear(a, Some(&alice), now);
        heard.hear(b, Some(&bob), now);
        heard.hear(b, Some(&bob), now + HEARD / 2);
        heard.forget(now + HEARD / 2);
        assert_eq!(full.count_full(), 2);
        heard.forget(now + HEARD);
        assert!(!full.contains(&a) && full.contains(&b));
        heard.hear(b, Some(&LittleRoom { room_bytes: 9, ..bob }), now + HEARD);
        assert_eq!((full.count_full(), full.room_bytes(&b)), (0, Some(9)));
        heard.hear(b, None, now + HEARD);
        assert!(full.is_empty() && heard.at.is_empty());
    }
}
