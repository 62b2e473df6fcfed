//! What must be written, so that the bucket holds a table.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::jetstream::kv::{Entry, Operation};
use domains::{Row, Table};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use crate::bucket::{Bucket, BucketError};
use crate::keys::{self, MARKER, WRITER};
use crate::publish::{PublishError, take_secret};
use crate::record::{Digest, Print, Stored, Versions};
use crate::seal::Sealer;

/// A key that is not what it must become.
pub(crate) struct Change {
    pub(crate) key: String,
    /// With its secrets; `None` when it must go.
    pub(crate) row: Option<Row>,
    /// What is in force.
    pub(crate) before: Option<Stored>,
}

/// Compares the bucket with a table, row by row as they are read.
pub(crate) struct Comparison<'a> {
    pub(crate) table: &'a Table,
    pub(crate) sealer: &'a Sealer,
    /// The generation that is in force.
    pub(crate) base: u64,
    pub(crate) changes: Sender<Change>,
    pub(crate) compared: &'a AtomicUsize,
}

impl Comparison<'_> {
    /// Sends every change; gives the sum of the rows that stay as they are. Reads what came before
    /// the sequence `end`: what comes after it, we write ourselves.
    pub(crate) async fn run(self, bucket: &Bucket, end: u64) -> Result<Digest, PublishError> {
        let (mut kept, mut seen) = (Digest::default(), HashSet::new());
        let mut watch = bucket.watch().await.map_err(BucketError::Read)?;
        loop {
            let next = tokio::time::timeout(bucket.timeout(), watch.next()).await;
            let next = next.map_err(|late| BucketError::Read(late.into()))?;
            let entry = next.ok_or_else(|| BucketError::Read("the watch ended".into()))?;
            let entry = entry.map_err(|error| BucketError::Read(error.into()))?;
            if entry.revision >= end {
                break;
            }
            if entry.key == MARKER || entry.key.starts_with(WRITER) {
                continue;
            }
            let key = entry.key.clone();
            match self.compare(entry)? {
                Compared::Same(print) => kept.add(print),
                Compared::Gone => {}
                Compared::Changed(change) => self.send(*change).await,
            }
            seen.insert(key);
            self.compared.fetch_add(1, Ordering::Relaxed);
        }
        drop(watch);
        for row in self.table.rows() {
            if let Some(key) = keys::of_row(&row).filter(|key| !seen.contains(key)) {
                self.send(Change { key, row: Some(row), before: None }).await;
                self.compared.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(kept)
    }

    async fn send(&self, change: Change) {
        // Whoever writes has failed then, and says so.
        let _ = self.changes.send(change).await;
    }

    fn compare(&self, entry: Entry) -> Result<Compared, PublishError> {
        let (key, generation) = (entry.key, self.base + 1);
        // What an older version wrote, or a hand, is written over.
        let found = (entry.operation == Operation::Put)
            .then(|| serde_json::from_slice::<Versions>(&entry.value).ok())
            .flatten();
        let wanted =
            keys::parse(&key).and_then(|(domain, name)| self.table.row(&domain, name.as_deref()));
        let Some(found) = found else {
            return Ok(Compared::Changed(Box::new(Change { key, row: wanted, before: None })));
        };
        match (found.at(generation), &wanted) {
            (None, None) => return Ok(Compared::Gone),
            (Some(stored), Some(wanted)) if self.is_same(&key, stored, wanted)? => {
                return Ok(Compared::Same(Print::of(&key, stored)?));
            }
            (Some(_) | None, _) => {}
        }
        let before = found.at(self.base).cloned();
        Ok(Compared::Changed(Box::new(Change { key, row: wanted, before })))
    }

    /// Whether a row is stored as it would be now, but for how chance seals it.
    fn is_same(&self, key: &str, stored: &Stored, wanted: &Row) -> Result<bool, PublishError> {
        let mut public = wanted.clone();
        let secret = take_secret(&mut public)?;
        if stored.row != public {
            return Ok(false);
        }
        Ok(match secret {
            None => stored.sealed.is_empty(),
            Some((class, secret)) => match stored.sealed.get(&class) {
                Some(sealed) if stored.sealed.len() == 1 => {
                    self.sealer.is_current(class, key, &secret, sealed)
                }
                Some(_) | None => false,
            },
        })
    }
}

enum Compared {
    Same(Print),
    /// It is in neither.
    Gone,
    Changed(Box<Change>),
}
