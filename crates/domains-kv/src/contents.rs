//! All that the bucket holds, as far as it has been read.

use std::collections::BTreeMap;

use async_nats::jetstream::kv::{Entry, Operation};
use domains::{Row, RowError, Table};

use crate::keys::{self, MARKER, WRITER};
use crate::record::{Marker, VERSION, Versions, digest};

/// Rows by their keys, and the marker.
#[derive(Clone, Default, Debug)]
pub(crate) struct Contents {
    pub(crate) rows: BTreeMap<String, Versions>,
    pub(crate) marker: Option<Marker>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Incomplete {
    #[error("no generation is complete; publish one with `postrider domain apply`")]
    NoMarker,
    #[error("the marker is of version {0}, which this program does not know")]
    Version(u32),
    #[error("the rows of generation {0} are not those that its marker counts")]
    Differs(u64),
    #[error("a row does not fit")]
    Row(#[from] RowError),
    #[error("a row cannot be written")]
    Format(#[from] serde_json::Error),
}

/// A key that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("key {key}")]
    Format {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("key {0} holds another's row")]
    Misplaced(String),
}

impl Contents {
    /// Takes an entry of the bucket in. Says whether it is a marker.
    pub(crate) fn take(&mut self, entry: &Entry) -> Result<bool, Unreadable> {
        let is_put = entry.operation == Operation::Put;
        let unreadable = |source| Unreadable::Format { key: entry.key.clone(), source };
        match &*entry.key {
            MARKER if is_put => {
                self.marker = Some(serde_json::from_slice(&entry.value).map_err(unreadable)?);
                return Ok(true);
            }
            MARKER => self.marker = None,
            key if key.starts_with(WRITER) => {}
            key if is_put => {
                let versions: Versions =
                    serde_json::from_slice(&entry.value).map_err(unreadable)?;
                let rows = versions.row.iter().chain(&versions.before);
                if !rows.into_iter().all(|row| keys::of_row(row).as_deref() == Some(key)) {
                    return Err(Unreadable::Misplaced(key.to_owned()));
                }
                self.rows.insert(key.to_owned(), versions);
            }
            key => {
                self.rows.remove(key);
            }
        }
        Ok(false)
    }

    /// The rows of a generation, in the order of their keys.
    pub(crate) fn at(&self, generation: u64) -> impl Iterator<Item = (&str, &Row)> + Clone {
        self.rows.iter().filter_map(move |(key, row)| Some((key.as_str(), row.at(generation)?)))
    }

    /// The generation that the marker names, if all of it is here.
    pub(crate) fn complete(&self) -> Result<(Marker, Table), Incomplete> {
        let marker = self.marker.clone().ok_or(Incomplete::NoMarker)?;
        if marker.version != VERSION {
            return Err(Incomplete::Version(marker.version));
        }
        let rows = self.at(marker.generation);
        if digest(rows.clone())? != marker.digest {
            return Err(Incomplete::Differs(marker.generation));
        }
        let table = Table::from_rows(rows.map(|(_, row)| row), marker.postmaster.clone())?;
        Ok((marker, table))
    }
}
