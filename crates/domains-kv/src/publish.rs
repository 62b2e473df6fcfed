//! Publishing a generation.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use domains::{Row, Table};
use futures::stream::{self, StreamExt, TryStreamExt};
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
/// Rows that are asked for at once.
const READS: usize = 64;

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
    let begun = begin(config, sealer, table, shrinking, progress).await?;
    Ok(begun.write_all_of(table).await?.published)
}

/// Publishes one table after the other, and looks only at what is new in each.
pub struct Publisher {
    config: Buckets,
    sealer: Sealer,
    /// Until another claims the bucket, or something goes wrong.
    standing: Option<Standing>,
}

/// What was put in force, and the right to go on from there.
struct Standing {
    bucket: Bucket,
    claim: Claim,
    marker: Marker,
    digest: Digest,
    table: Arc<Table>,
}

impl Publisher {
    pub fn new(config: Buckets, sealer: Sealer) -> Self {
        Self { config, sealer, standing: None }
    }

    /// Whether what was published last is in force still.
    ///
    /// # Errors
    /// Nobody can tell.
    pub async fn is_in_force(&self) -> Result<bool, BucketError> {
        let Some(standing) = &self.standing else { return Ok(false) };
        let marker = standing.bucket.marker().await.map_err(BucketError::Read)?;
        Ok(marker.as_ref() == Some(&standing.marker))
    }

    /// Looks at all rows the next time: another may have published in between.
    pub fn forget(&mut self) {
        self.standing = None;
    }

    /// As [`publish`]: the first time, and after an error, all rows are read and compared; from
    /// then on those of the domains that changed.
    ///
    /// # Errors
    /// As those of [`publish`].
    pub async fn publish(
        &mut self,
        table: &Arc<Table>,
        shrinking: Shrinking,
    ) -> Result<Published, PublishError> {
        let progress = Progress::default();
        let written = match self.standing.take() {
            None => {
                let begun = begin(&self.config, &self.sealer, table, shrinking, &progress).await?;
                begun.write_all_of(table).await?
            }
            Some(standing) => {
                let old = standing.table.hosted_domains().len();
                if shrinks(old, table, shrinking) {
                    let new = table.hosted_domains().len();
                    self.standing = Some(standing);
                    return Err(PublishError::Shrinks { old, new });
                }
                let Standing { bucket, claim, marker, digest, table: before } = standing;
                let writing =
                    Writing::new(bucket, &self.sealer, claim, marker.generation, &progress);
                writing.write_changes(table, &before, marker, digest).await?
            }
        };
        let Written { published, bucket, claim, digest } = written;
        let (marker, table) = (published.marker.clone(), Arc::clone(table));
        self.standing = Some(Standing { bucket, claim, marker, digest, table });
        Ok(published)
    }
}

fn shrinks(old: usize, table: &Table, shrinking: Shrinking) -> bool {
    table.hosted_domains().len() * 2 < old && shrinking == Shrinking::Refused
}

/// Whether all that is secret in a table can be sealed: before anything of it is written.
fn check_keys(sealer: &Sealer, table: &Table) -> Result<(), SealError> {
    if table.has_logins() {
        sealer.check(Class::Passwords)?;
    }
    if table.certificates().next().is_some() {
        sealer.check(Class::Tls)?;
    }
    Ok(())
}

/// Takes the right to write, and sees what is in force.
async fn begin<'a>(
    config: &Buckets,
    sealer: &'a Sealer,
    table: &Table,
    shrinking: Shrinking,
    progress: &'a Progress,
) -> Result<Begun<'a>, PublishError> {
    check_keys(sealer, table)?;
    let bucket = Bucket::connect(config).await?;
    bucket.ensure().await?;
    let claim = bucket.claim().await.map_err(not_written(keys::WRITER))?;
    let last = bucket.marker().await.map_err(BucketError::Read)?;
    if let Some(last) = last.as_ref().filter(|last| last.version > VERSION) {
        return Err(PublishError::Version(last.version));
    }
    let old = last.as_ref().map_or(0, |it| it.domains);
    if shrinks(old, table, shrinking) {
        return Err(PublishError::Shrinks { old, new: table.hosted_domains().len() });
    }
    let generation = last.as_ref().map_or(0, |last| last.generation);
    Ok(Begun { writing: Writing::new(bucket, sealer, claim, generation, progress), last })
}

/// A generation of which nothing is written yet.
struct Begun<'a> {
    writing: Writing<'a>,
    last: Option<Marker>,
}

impl Begun<'_> {
    async fn write_all_of(self, table: &Table) -> Result<Written, PublishError> {
        let Self { writing, last } = self;
        let (changes, mut coming) = mpsc::channel(AHEAD);
        let comparison = Comparison {
            table,
            sealer: writing.sealer,
            base: writing.generation - 1,
            changes,
            compared: &writing.progress.compared,
        };
        let compare = comparison.run(&writing.bucket, writing.claim.end());
        let changes = stream::poll_fn(move |context| coming.poll_recv(context));
        let (kept, sums) = tokio::try_join!(compare, writing.write_all(changes))?;
        writing.mark(table, last, kept, sums).await
    }
}

/// A generation that is being written.
struct Writing<'a> {
    bucket: Bucket,
    sealer: &'a Sealer,
    claim: Claim,
    generation: u64,
    /// Those in which no write is under way.
    lanes: Mutex<Vec<usize>>,
    progress: &'a Progress,
}

/// One that is in force.
struct Written {
    published: Published,
    bucket: Bucket,
    claim: Claim,
    digest: Digest,
}

/// What the rows that were written come to.
#[derive(Default)]
struct Sums {
    digest: Digest,
    rows: usize,
    /// The sequences of those that say that a row is gone.
    tombs: Vec<u64>,
}

impl<'a> Writing<'a> {
    fn new(
        bucket: Bucket,
        sealer: &'a Sealer,
        claim: Claim,
        base: u64,
        progress: &'a Progress,
    ) -> Self {
        let lanes = Mutex::new((0..LANES).collect());
        Self { bucket, sealer, claim, generation: base + 1, lanes, progress }
    }

    /// Writes what is new since `before`, which is in force as `marker` says.
    async fn write_changes(
        self,
        table: &Table,
        before: &Table,
        marker: Marker,
        digest: Digest,
    ) -> Result<Written, PublishError> {
        let changed = changes_between(before, table);
        check_keys(self.sealer, table)?;
        let changes = self.look_up(changed).await?;
        let mut kept = digest;
        for Change { key, before, .. } in &changes {
            if let Some(before) = before {
                kept.remove(Print::of(key, before)?);
            }
        }
        let sums = self.write_all(stream::iter(changes)).await?;
        self.mark(table, Some(marker), kept, sums).await
    }

    /// What is in force of rows that are to be others.
    async fn look_up(
        &self,
        changed: Vec<(String, Option<Row>)>,
    ) -> Result<Vec<Change>, PublishError> {
        let found = stream::iter(changed).map(async |(key, row)| {
            let versions = self.bucket.row(&key).await.map_err(BucketError::Read)?;
            let before = versions.and_then(|it| it.at(self.generation - 1).cloned());
            Ok::<_, PublishError>(Change { key, row, before })
        });
        found.buffer_unordered(READS).try_collect().await
    }

    /// Says that what was written is in force: `kept` is the sum of what stays as it was.
    async fn mark(
        self,
        table: &Table,
        last: Option<Marker>,
        kept: Digest,
        sums: Sums,
    ) -> Result<Written, PublishError> {
        let digest = kept.and(sums.digest);
        let marker = self.marker(table, last.as_ref(), digest);
        let published = match last {
            Some(last)
                if marker.says_the_same(&last) && sums.rows == 0 && sums.tombs.is_empty() =>
            {
                Published { marker: last, written: 0, dropped: 0 }
            }
            Some(_) | None => {
                let value = serde_json::to_vec(&marker)?;
                let marked = self.bucket.write(&self.claim, FIRST_LANE, MARKER, value.into()).await;
                marked.map_err(not_written(MARKER))?;
                let (written, dropped) = (sums.rows, sums.tombs.len());
                forget(&self.bucket, sums.tombs).await;
                Published { marker, written, dropped }
            }
        };
        let Self { bucket, claim, .. } = self;
        Ok(Written { published, bucket, claim, digest })
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
    ) -> Result<Sums, PublishError> {
        let mut all = Sums::default();
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

    fn seal(&self, key: &str, mut row: Row) -> Result<Stored, PublishError> {
        let mut sealed = BTreeMap::new();
        if let Some((class, secret)) = take_secret(&mut row)? {
            sealed.insert(class, self.sealer.seal(class, key, &secret)?);
        }
        Ok(Stored { row, sealed })
    }
}

/// The keys of rows that are others than before, with what they are now.
fn changes_between(before: &Table, now: &Table) -> Vec<(String, Option<Row>)> {
    let mut changes = Vec::new();
    for domain in now.changed_domains(before) {
        let keyed = |table: &Table| -> HashMap<String, Row> {
            table.rows_of(domain).filter_map(|row| Some((keys::of_row(&row)?, row))).collect()
        };
        let (mut old, new) = (keyed(before), keyed(now));
        let new = new.into_iter();
        changes.extend(new.filter_map(|(key, row)| match old.remove(&key) {
            Some(same) if same == row => None,
            Some(_) | None => Some((key, Some(row))),
        }));
        changes.extend(old.into_keys().map(|key| (key, None)));
    }
    changes
}

/// What of a row is sealed, taken out of it: a row has secrets of one class at most.
pub(crate) fn take_secret(row: &mut Row) -> Result<Option<(Class, Vec<u8>)>, serde_json::Error> {
    let hashes = row.take_hashes();
    if !hashes.is_empty() {
        return Ok(Some((Class::Passwords, serde_json::to_vec(&hashes)?)));
    }
    Ok(row.take_key().map(|key| (Class::Tls, key.into_bytes())))
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
