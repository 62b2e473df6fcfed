//! Which process serves which partitions.
//!
//! ```text
//! bucket `own`   m.s.ID   a process that serves next hops of a kind is alive     TTL
//!                l.s0     whose a partition is: the right to pull its mail       TTL, by CAS
//! ```
//!
//! Every process watches the bucket, so all choose alike who should have what ([`choose`]). Who
//! should have a partition takes its key when that is free, and renews it. Who should not have it
//! any more stops pulling, lets its leases end, and deletes the key. Ownership is politeness
//! towards next hops; what keeps mail from being delivered twice is the lease on the job, which is
//! void when the key may have lapsed, and the compare-and-set of records.

mod choose;
mod tenure;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation, Store, Watch};
use async_nats::jetstream::stream::{self, DiscardPolicy, StorageType};
use bytes::Bytes;
use futures::StreamExt;
use queue::HopKind;
use queue::contract::Cause;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};

pub(crate) use tenure::Tenure;

use crate::broker::{self, Publish, PublishError};
use crate::config::Config;
use crate::names::Partition;
use crate::shared::Shared;
use crate::streams;

pub(crate) const BUCKET: &str = "own";
/// The stream of the bucket.
pub(crate) const STREAM: &str = "KV_own";
const RETRY: Duration = Duration::from_millis(300);
/// Partitions given back that nobody has looked at: more than there can be.
const RELEASES: usize = 1024;
/// How long the mark of a key that is gone is kept, for those who watch.
const MARK: Duration = Duration::from_secs(60);

/// The bucket, as a stream: the library's own call asks for more than most roles may.
pub(crate) fn stream(config: &Config) -> stream::Config {
    stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: config.replicas,
        max_messages_per_subject: 1,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: true,
        // Without it nobody would see that a key has lapsed.
        subject_delete_marker_ttl: Some(MARK),
        ..Default::default()
    }
}

async fn bucket(shared: &Shared) -> Result<Store, Cause> {
    streams::ensure_one(&shared.broker, stream(&shared.config)).await?;
    Ok(shared.broker.context.get_key_value(BUCKET).await?)
}

/// Who has a partition, as the bucket's leader knows it.
pub(crate) async fn holder(shared: &Shared, partition: Partition) -> Result<Option<String>, Cause> {
    let last = shared.broker.last(STREAM, &subject(&partition_key(partition))).await?;
    // The mark of a key's end is empty.
    Ok(last
        .filter(|last| !last.payload.is_empty())
        .map(|last| String::from_utf8_lossy(&last.payload).into_owned()))
}

/// The processes that serve next hops, as the bucket's leader knows them.
pub(crate) async fn members(shared: &Shared) -> Result<HashSet<String>, Cause> {
    let mut members = HashSet::new();
    let of_members = subject("m.");
    for key in streams::subjects(shared, STREAM).await? {
        if !key.starts_with(&of_members) {
            continue;
        }
        // The mark of a key's end is empty.
        let last = shared.broker.last(STREAM, &key).await?;
        let lives = last.filter(|last| !last.payload.is_empty());
        members.extend(lives.map(|last| String::from_utf8_lossy(&last.payload).into_owned()));
    }
    Ok(members)
}

/// What the bucket says of a partition.
#[derive(Clone, Debug, Default)]
struct Key {
    /// `None` when it is free.
    holder: Option<String>,
    /// Of the last entry, a mark of its end included.
    revision: u64,
}

/// Takes, renews and gives back partitions until the queue is closed.
pub(crate) async fn run(shared: Arc<Shared>, kinds: Vec<HopKind>) {
    let (released, releases) = mpsc::channel(RELEASES);
    let refresh = shared.config.ownership_ttl() / 5;
    let mut owner = Owner {
        shared: Arc::clone(&shared),
        kinds,
        members: BTreeMap::new(),
        keys: HashMap::new(),
        held: HashMap::new(),
        is_current: false,
        ticks: tokio::time::interval(refresh),
        released,
        releases,
    };
    let work = async {
        loop {
            if let Err(error) = owner.watch().await {
                tracing::debug!(%error, "who owns what is watched anew");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    // Boxed: what watches is large, and there is one.
    let leaving = Box::pin(shared.leaving.run_until_cancelled(work));
    if shared.closed.run_until_cancelled(leaving).await.is_some() {
        shared.closed.run_until_cancelled(owner.leave()).await;
    }
}

struct Owner {
    shared: Arc<Shared>,
    kinds: Vec<HopKind>,
    members: BTreeMap<&'static str, BTreeSet<String>>,
    keys: HashMap<Partition, Key>,
    held: HashMap<Partition, Arc<Tenure>>,
    /// Whether all of the bucket has been seen.
    is_current: bool,
    ticks: Interval,
    released: mpsc::Sender<Partition>,
    releases: mpsc::Receiver<Partition>,
}

impl Owner {
    async fn watch(&mut self) -> Result<(), Cause> {
        let store = bucket(&self.shared).await?;
        self.announce().await?;
        (self.members, self.keys) = Default::default();
        self.is_current = false;
        let mut watch: Watch = store.watch_with_history(">").await?;
        loop {
            // Cancel-safe: an entry that was not taken is still in the watch.
            tokio::select! {
                entry = watch.next() => self.read(entry.ok_or("the watch ended")??),
                _ = self.ticks.tick() => self.refresh().await,
                Some(partition) = self.releases.recv() => self.let_go(partition).await,
            }
            if self.is_current {
                self.settle().await;
            }
        }
    }

    fn read(&mut self, entry: Entry) {
        self.is_current |= entry.seen_current || entry.delta == 0;
        let is_there = entry.operation == Operation::Put;
        let (kind, name) = entry.key.split_once('.').unwrap_or_default();
        if kind == "l" {
            let Some(partition) = self.partitions().find(|known| known.to_string() == name) else {
                return;
            };
            let holder = String::from_utf8_lossy(&entry.value).into_owned();
            let key = Key { holder: is_there.then_some(holder), revision: entry.revision };
            self.keys.insert(partition, key);
            return;
        }
        let Some((of, id)) = name.split_once('.') else { return };
        let Some(of) = ["s", "m"].into_iter().find(|kind| *kind == of) else { return };
        let members = self.members.entry(of).or_default();
        match is_there {
            true => members.insert(id.to_owned()),
            false => members.remove(id),
        };
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> {
        let shared = Arc::clone(&self.shared);
        let kinds = self.kinds.clone().into_iter();
        kinds.flat_map(move |kind| Partition::all(kind, shared.config.partitions_of(kind)))
    }

    /// Says that we are alive.
    async fn announce(&self) -> Result<(), PublishError> {
        for kind in &self.kinds {
            let key = member_key(*kind, &self.shared.writer);
            self.put(&key, None).await?;
        }
        Ok(())
    }

    async fn refresh(&mut self) {
        if let Err(error) = self.announce().await {
            tracing::debug!(%error, "nobody heard that we are alive");
        }
        let held: Vec<_> = self.held.values().cloned().collect();
        for tenure in held {
            if let Err(error) = self.renew(&tenure).await {
                tracing::debug!(%error, partition = %tenure.partition, "not renewed");
            }
            if !tenure.is_valid() {
                tracing::warn!(partition = %tenure.partition, "a partition is lost to others");
                self.held.remove(&tenure.partition);
                tenure.lose(&self.shared);
            }
        }
    }

    async fn renew(&self, tenure: &Tenure) -> Result<(), Cause> {
        let key = partition_key(tenure.partition);
        let sent = Instant::now();
        match self.put(&key, Some(tenure.revision())).await {
            Ok(revision) => tenure.renewed(sent, revision),
            Err(PublishError::Changed) => {
                // A renewal of ours that nobody answered, or another's.
                let last = self.shared.broker.last(STREAM, &subject(&key)).await?;
                match last.filter(|last| last.payload == self.shared.writer.as_bytes()) {
                    Some(last) => tenure.renewed(sent, last.sequence),
                    None => tenure.end(),
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes what should be ours and is free; begins to give back what should not.
    async fn settle(&mut self) {
        for kind in self.kinds.clone() {
            let members = self.members.get(letter(kind)).cloned().unwrap_or_default();
            let partitions: Vec<_> =
                Partition::all(kind, self.shared.config.partitions_of(kind)).collect();
            let mine = choose::share(&members, &partitions, &self.shared.writer);
            for partition in partitions {
                let held = self.held.get(&partition).cloned();
                match (mine.contains(&partition), held) {
                    (true, None) => self.take(partition).await,
                    (false, Some(tenure)) => {
                        tenure.give_back(&self.shared, self.released.clone());
                    }
                    (true, Some(_)) | (false, None) => {}
                }
            }
        }
    }

    async fn take(&mut self, partition: Partition) {
        let key = self.keys.get(&partition).cloned().unwrap_or_default();
        if key.holder.is_some() {
            return;
        }
        let sent = Instant::now();
        match self.put(&partition_key(partition), Some(key.revision)).await {
            Ok(revision) => {
                tracing::info!(event = "partition_taken", %partition);
                let tenure = Tenure::begin(&self.shared, partition, sent, revision);
                self.held.insert(partition, tenure);
            }
            // Somebody was faster: the watch will say.
            Err(PublishError::Changed) => {}
            Err(error) => tracing::debug!(%error, %partition, "not taken"),
        }
    }

    /// A partition that was given back is free for others.
    async fn let_go(&mut self, partition: Partition) {
        let Some(tenure) = self.held.remove(&partition) else { return };
        tracing::info!(event = "partition_given_back", %partition);
        self.delete(&partition_key(partition), Some(tenure.revision())).await;
    }

    /// Gives everything back, and says that we are gone.
    async fn leave(&mut self) {
        for kind in self.kinds.clone() {
            self.delete(&member_key(kind, &self.shared.writer), None).await;
        }
        let held: Vec<_> = self.held.values().cloned().collect();
        for tenure in held {
            tenure.give_back(&self.shared, self.released.clone());
            tenure.ended().await;
            self.let_go(tenure.partition).await;
        }
    }

    async fn put(&self, key: &str, expected: Option<u64>) -> Result<u64, PublishError> {
        let value = Bytes::copy_from_slice(self.shared.writer.as_bytes());
        let ttl = format!("{}s", self.shared.config.ownership_ttl().as_secs());
        let publish = Publish::new(subject(key), &unique(), value).header(broker::TTL, &ttl);
        self.publish(publish, expected).await
    }

    async fn delete(&self, key: &str, expected: Option<u64>) {
        let publish = Publish::new(subject(key), &unique(), Bytes::new())
            .header("KV-Operation", "PURGE")
            .header("Nats-Rollup", "sub")
            .header(broker::TTL, &format!("{}s", MARK.as_secs()));
        if let Err(error) = self.publish(publish, expected).await {
            tracing::debug!(%error, key, "a key is left to its end");
        }
    }

    async fn publish(&self, publish: Publish, expected: Option<u64>) -> Result<u64, PublishError> {
        let publish = match expected {
            Some(revision) => publish.expecting(revision),
            None => publish,
        };
        self.shared.broker.publish(publish).await
    }
}

fn subject(key: &str) -> String {
    format!("$KV.{BUCKET}.{key}")
}

/// Keys are written again and again: no two writes are the same message.
fn unique() -> String {
    format!("{:016x}", rand::random::<u64>())
}

pub(crate) fn letter(kind: HopKind) -> &'static str {
    match kind {
        HopKind::Smtp => "s",
        HopKind::Mailbox => "m",
    }
}

fn member_key(kind: HopKind, id: &str) -> String {
    format!("m.{}.{id}", letter(kind))
}

fn partition_key(partition: Partition) -> String {
    format!("l.{partition}")
}
