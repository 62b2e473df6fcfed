//! Publishing a generation.

use std::collections::BTreeMap;

use bytes::Bytes;
use domains::{Row, Table};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::Config;
use crate::bucket::{Bucket, BucketError, Claim, FIRST_LANE, LANES, WriteError};
use crate::contents::{Contents, Incomplete};
use crate::keys::{self, MARKER};
use crate::record::{Marker, VERSION, Versions, digest};

/// Rows forgotten at once.
const FORGETS: usize = 64;

/// Whether most domains may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shrinking {
    Refused,
    Confirmed,
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
    #[error("key {key} was not written; what was in force is, apply again")]
    Write {
        key: String,
        #[source]
        source: WriteError,
    },
    #[error("a row cannot be written")]
    Format(#[from] serde_json::Error),
}

/// Makes `table` the one that is in force, as the next generation. One that is in force already
/// changes nothing.
///
/// # Errors
/// Nothing is in force that was not, unless the last answer, to the marker, got lost. Whatever was
/// written helps the next try.
pub async fn publish(
    config: &Config,
    table: &Table,
    shrinking: Shrinking,
) -> Result<Published, PublishError> {
    let bucket = Bucket::connect(config).await?;
    bucket.ensure().await?;
    let claim = bucket.claim().await.map_err(not_written(keys::WRITER))?;
    let contents = bucket.contents_before(&claim).await?;
    let in_force = contents.complete();
    if let Err(Incomplete::Version(version)) = in_force {
        return Err(PublishError::Version(version));
    }
    let plan = Plan::new(&contents, table)?;
    let (old, new) = (contents.marker.as_ref().map_or(0, |it| it.domains), plan.marker.domains);
    if new * 2 < old && shrinking == Shrinking::Refused {
        return Err(PublishError::Shrinks { old, new });
    }
    if let Ok((marker, _)) = in_force
        && marker.digest == plan.marker.digest
        && marker.postmaster == plan.marker.postmaster
    {
        return Ok(Published { marker, written: 0, dropped: 0 });
    }
    plan.carry_out(&bucket, claim).await
}

/// What is to be written.
struct Plan {
    changes: BTreeMap<String, Versions>,
    marker: Marker,
}

impl Plan {
    fn new(contents: &Contents, table: &Table) -> Result<Self, serde_json::Error> {
        let rows = table.rows();
        let wanted: BTreeMap<String, &Row> =
            rows.iter().filter_map(|row| Some((keys::of_row(row)?, row))).collect();
        let last = contents.marker.as_ref();
        let base = last.map_or(0, |marker| marker.generation);
        let generation = base + 1;
        let marker = Marker {
            version: VERSION,
            history: last.map_or_else(unique, |marker| marker.history.clone()),
            generation,
            domains: table.hosted_domains().len(),
            mailboxes: table.mailboxes(),
            rows: wanted.len(),
            digest: digest(wanted.iter().map(|(key, row)| (key.as_str(), *row)))?,
            postmaster: table.postmaster().cloned(),
        };
        let mut changes = BTreeMap::new();
        for key in wanted.keys().chain(contents.rows.keys()) {
            let (found, row) = (contents.rows.get(key), wanted.get(key).copied());
            // What a generation that was never complete left behind is written over, too.
            if found.and_then(|found| found.at(generation)) != row {
                let before = found.and_then(|found| found.at(base)).cloned();
                changes
                    .insert(key.clone(), Versions { since: generation, row: row.cloned(), before });
            }
        }
        Ok(Self { changes, marker })
    }

    async fn carry_out(self, bucket: &Bucket, claim: Claim) -> Result<Published, PublishError> {
        let mut lanes: Vec<Vec<(String, Versions)>> = vec![Vec::new(); LANES];
        for (n, change) in self.changes.into_iter().enumerate() {
            lanes[n % LANES].push(change);
        }
        let lanes = lanes.into_iter().enumerate();
        let writes = lanes.map(|(lane, changes)| write_lane(bucket, &claim, lane, changes));
        let written = stream::iter(writes).buffer_unordered(LANES).try_concat().await?;
        let marker = Bytes::from(serde_json::to_vec(&self.marker)?);
        let marked = bucket.write(&claim, FIRST_LANE, MARKER, marker).await;
        marked.map_err(not_written(MARKER))?;
        let all = written.len();
        let tombs: Vec<u64> = written.into_iter().flatten().collect();
        let (written, dropped) = (all - tombs.len(), tombs.len());
        forget(bucket, tombs).await;
        Ok(Published { marker: self.marker, written, dropped })
    }
}

/// Writes rows, one after the other; gives for each the sequence, if it says that the row is gone.
async fn write_lane(
    bucket: &Bucket,
    claim: &Claim,
    lane: usize,
    changes: Vec<(String, Versions)>,
) -> Result<Vec<Option<u64>>, PublishError> {
    let mut written = Vec::with_capacity(changes.len());
    for (key, versions) in changes {
        let value = serde_json::to_vec(&versions)?;
        let sequence = bucket.write(claim, lane, &key, value.into()).await;
        let sequence = sequence.map_err(not_written(&key))?;
        written.push(versions.row.is_none().then_some(sequence));
    }
    Ok(written)
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
    move |source| PublishError::Write { key: key.to_owned(), source }
}

fn unique() -> String {
    format!("{:016x}", rand::random::<u64>())
}
