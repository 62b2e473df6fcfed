//! Publishing a generation.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use domains::Table;
use futures::stream::{self, StreamExt};
use tokio::sync::mpsc;

use crate::Buckets;
use crate::bucket::{Bucket, BucketError, Claim, FIRST_LANE, LANES, WriteError};
use crate::class::Class;
use crate::compare::{Change, Comparison};
use crate::keys::{self, MARKER};
use crate::record::{Digest, Marker, Print, Stored, VERSION, Versions};
use crate::seal::{SealError, Sealer};

/// Rows forgotten at once.
const FORGETS: usize = 64;
/// Changes that wait to be written.
const AHEAD: usize = 1024;

/// Whether most domains may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shrinking {
    Refused,
    Confirmed,
}

/// How far publishing has come: for whoever looks on.
#[derive(Default, Debug)]
pub struct Progress {
    /// Rows that were read and compared.
    pub compared: AtomicUsize,
    /// Rows that were written.
    pub written: AtomicUsize,
}

/// What publishing did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    pub marker: Marker,
    /// Rows that are new or have changed.
    pub written: usize,
    pub dropped: usize,
}

/// Why nothing has changed for those who read.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("{new} domains would remain of {old}: add --confirm-shrink if that is what you mean")]
    Shrinks { old: usize, new: usize },
    #[error("the bucket is of version {0}, which this program does not know: use a newer one")]
    Version(u32),
    /// Whoever began last wins.
    #[error(
        "another `postrider domain apply` has begun after this one and goes on; nothing of this \
         one is in force: apply again if yours are the newer files"
    )]
    Overtaken,
    #[error("key {key} was not written; what was in force is, apply again")]
    Write {
        key: String,
        #[source]
        source: WriteError,
    },
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("a row cannot be written")]
    Format(#[from] serde_json::Error),
}

/// Makes `table` the one that is in force, as the next generation. One that is in force already
/// changes nothing. Needs memory for the table and for what is under way, however much changes.
///
/// # Errors
/// Nothing is in force that was not, unless the last answer, to the marker, got lost. Whatever was
/// written helps the next try.
pub async fn publish(
    config: &Buckets,
    sealer: &Sealer,
    table: &Table,
    shrinking: Shrinking,
    progress: &Progress,
) -> Result<Published, PublishError> {
    if table.rows().any(|row| row.has_login()) {
        sealer.check(Class::Passwords)?;
    }
    let bucket = Bucket::connect(config).await?;
    bucket.ensure().await?;
    let claim = bucket.claim().await.map_err(not_written(keys::WRITER))?;
    let last = bucket.marker().await.map_err(BucketError::Read)?;
    if let Some(last) = last.as_ref().filter(|last| last.version > VERSION) {
        return Err(PublishError::Version(last.version));
    }
    let (old, new) = (last.as_ref().map_or(0, |it| it.domains), table.hosted_domains().len());
    if new * 2 < old && shrinking == Shrinking::Refused {
        return Err(PublishError::Shrinks { old, new });
    }
    let writing = Writing {
        bucket: &bucket,
        sealer,
        claim,
        generation: last.as_ref().map_or(0, |last| last.generation) + 1,
        lanes: Mutex::new((0..LANES).collect()),
        progress,
    };
    writing.carry_out(table, last).await
}

/// A generation that is being written.
struct Writing<'a> {
    bucket: &'a Bucket,
    sealer: &'a Sealer,
    claim: Claim,
    generation: u64,
    /// Those in which no write is under way.
    lanes: Mutex<Vec<usize>>,
    progress: &'a Progress,
}

/// What the rows that were written come to.
#[derive(Default)]
struct Written {
    digest: Digest,
    rows: usize,
    /// The sequences of those that say that a row is gone.
    tombs: Vec<u64>,
}

impl Writing<'_> {
    async fn carry_out(
        &self,
        table: &Table,
        last: Option<Marker>,
    ) -> Result<Published, PublishError> {
        let (changes, mut coming) = mpsc::channel(AHEAD);
        let comparison = Comparison {
            table,
            sealer: self.sealer,
            base: self.generation - 1,
            changes,
            compared: &self.progress.compared,
        };
        let compare = comparison.run(self.bucket, self.claim.end());
        let changes = stream::poll_fn(move |context| coming.poll_recv(context));
        let (kept, written) = tokio::try_join!(compare, self.write_all(changes))?;
        let digest = kept.and(written.digest);
        let marker = self.marker(table, last.as_ref(), digest);
        if let Some(last) = last.filter(|last| marker.says_the_same(last))
            && written.rows == 0
            && written.tombs.is_empty()
        {
            return Ok(Published { marker: last, written: 0, dropped: 0 });
        }
        let value = serde_json::to_vec(&marker)?;
        let marked = self.bucket.write(&self.claim, FIRST_LANE, MARKER, value.into()).await;
        marked.map_err(not_written(MARKER))?;
        let dropped = written.tombs.len();
        forget(self.bucket, written.tombs).await;
        Ok(Published { marker, written: written.rows, dropped })
    }

    fn marker(&self, table: &Table, last: Option<&Marker>, digest: Digest) -> Marker {
        Marker {
            version: VERSION,
            history: last.map_or_else(unique, |marker| marker.history.clone()),
            generation: self.generation,
            domains: table.hosted_domains().len(),
            mailboxes: table.mailboxes(),
            rows: digest.rows,
            digest: digest.text(),
            postmaster: table.postmaster().cloned(),
            scram: table.offers_scram(),
            keys: self.sealer.ids(),
        }
    }

    async fn write_all(
        &self,
        changes: impl stream::Stream<Item = Change>,
    ) -> Result<Written, PublishError> {
        let mut all = Written::default();
        let writes = changes.map(|change| self.write(change)).buffer_unordered(LANES);
        let mut writes = std::pin::pin!(writes);
        while let Some((print, sequence)) = writes.next().await.transpose()? {
            match print {
                Some(print) => {
                    all.digest.add(print);
                    all.rows += 1;
                }
                None => all.tombs.push(sequence),
            }
            self.progress.written.fetch_add(1, Ordering::Relaxed);
        }
        Ok(all)
    }

    async fn write(&self, change: Change) -> Result<(Option<Print>, u64), PublishError> {
        let Change { key, row, before } = change;
        let now = row.map(|row| self.seal(&key, row)).transpose()?;
        let print = now.as_ref().map(|now| Print::of(&key, now)).transpose()?;
        let versions = Versions { since: self.generation, now, before };
        let value = serde_json::to_vec(&versions)?;
        let lane = self.lanes().pop().unwrap_or(FIRST_LANE);
        let written = self.bucket.write(&self.claim, lane, &key, value.into()).await;
        self.lanes().push(lane);
        Ok((print, written.map_err(not_written(&key))?))
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn seal(&self, key: &str, mut row: domains::Row) -> Result<Stored, PublishError> {
        let (hashes, mut sealed) = (row.take_hashes(), BTreeMap::new());
        if !hashes.is_empty() {
            let secret = serde_json::to_vec(&hashes)?;
            let class = Class::Passwords;
            sealed.insert(class, self.sealer.seal(class, key, &secret)?);
        }
        Ok(Stored { row, sealed })
    }
}

/// Removes rows that no generation has any more. What remains is harmless.
async fn forget(bucket: &Bucket, sequences: Vec<u64>) {
    let mut forgotten =
        stream::iter(sequences).map(|sequence| bucket.forget(sequence)).buffer_unordered(FORGETS);
    while let Some(forgotten) = forgotten.next().await {
        if let Err(error) = forgotten {
            tracing::debug!(%error, "a dropped row stays");
        }
    }
}

fn not_written(key: &str) -> impl Fn(WriteError) -> PublishError {
    move |source| match source {
        WriteError::Fenced => PublishError::Overtaken,
        source @ (WriteError::Refused(_) | WriteError::Unknown(_)) => {
            PublishError::Write { key: key.to_owned(), source }
        }
    }
}

fn unique() -> String {
    format!("{:016x}", rand::random::<u64>())
}
