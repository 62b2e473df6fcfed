//! What the bucket holds, as far as it has been read: the table in force, and what is to follow.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::jetstream::kv::{Entry, Operation};
use domains::{Row, RowError, Table};

use crate::class::Class;
use crate::keys::{self, MARKER, WRITER};
use crate::record::{Digest, Marker, Print, Stored, VERSION, Versions};
use crate::seal::Opener;
use crate::stand_ins::StandIns;

/// Rows that are kept until their generation is complete; if more have changed, all are read anew.
const WAITING_MAX: usize = 100_000;

/// A generation in the making.
pub(crate) struct Contents {
    /// Which one the rows in `table` are of.
    marker: Marker,
    /// By which keys of certificates are opened: without them a role shows none of these.
    opener: Arc<Opener>,
    table: Table,
    digest: Digest,
    stand_ins: StandIns,
    /// Rows of the next generation by their keys.
    waiting: HashMap<String, Waiting>,
    is_overfull: bool,
}

/// What a key is to become.
struct Waiting {
    since: u64,
    row: Option<(Row, Print)>,
    before: Option<(Row, Print)>,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum Incomplete {
    #[error("no generation is complete; publish one with `postrider domain apply`")]
    NoMarker,
    #[error(
        "the marker is of version {0} and not of {VERSION}: publish with `postrider domain apply` \
         of this version"
    )]
    Version(u32),
    #[error("the rows of generation {0} are not those that its marker counts")]
    Differs(u64),
    #[error("a row does not fit")]
    Row(#[from] RowError),
    #[error("key {key} cannot be read")]
    Unreadable {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("key {0} holds another's row")]
    Misplaced(String),
    #[error("key {0} is not what the generation before says")]
    Disorder(String),
    #[error("too much has changed at once")]
    Overfull,
}

/// What an entry of the bucket was.
pub(crate) enum Taken {
    Row,
    Marker(Marker),
}

impl Contents {
    /// Nothing yet of the generation that `marker` names.
    pub(crate) fn begin(marker: Marker, opener: Arc<Opener>) -> Result<Self, Incomplete> {
        if marker.version != VERSION {
            return Err(Incomplete::Version(marker.version));
        }
        Ok(Self {
            marker,
            opener,
            table: Table::default(),
            digest: Digest::default(),
            stand_ins: StandIns::default(),
            waiting: HashMap::new(),
            is_overfull: false,
        })
    }

    /// Takes an entry in.
    pub(crate) fn take(&mut self, entry: &Entry) -> Result<Taken, Incomplete> {
        let unreadable = |source| Incomplete::Unreadable { key: entry.key.clone(), source };
        if entry.key.starts_with(WRITER) {
            return Ok(Taken::Row);
        }
        if entry.operation != Operation::Put {
            return Err(Incomplete::Disorder(entry.key.clone()));
        }
        if entry.key == MARKER {
            return Ok(Taken::Marker(serde_json::from_slice(&entry.value).map_err(unreadable)?));
        }
        let versions: Versions = serde_json::from_slice(&entry.value).map_err(unreadable)?;
        self.take_row(&entry.key, versions)?;
        Ok(Taken::Row)
    }

    fn take_row(&mut self, key: &str, versions: Versions) -> Result<(), Incomplete> {
        let print = |stored: Option<Stored>| -> Result<Option<(Row, Print)>, Incomplete> {
            let Some(stored) = stored else { return Ok(None) };
            if keys::of_row(&stored.row).as_deref() != Some(key) {
                return Err(Incomplete::Misplaced(key.to_owned()));
            }
            let unreadable = |source| Incomplete::Unreadable { key: key.to_owned(), source };
            let print = Print::of(key, &stored).map_err(unreadable)?;
            Ok(Some((self.with_key(key, stored), print)))
        };
        let (row, before) = (print(versions.now)?, print(versions.before)?);
        if versions.since <= self.marker.generation {
            if let Some((row, print)) = row {
                // What was there before counted already: it is another history.
                if self.has(&row) {
                    return Err(Incomplete::Disorder(key.to_owned()));
                }
                self.add(key, &row, print);
            }
            return Ok(());
        }
        // Written over before it was read: what it was still counts.
        if let Some((row, print)) = &before
            && !self.has(row)
        {
            self.add(key, row, *print);
        }
        self.wait(key, Waiting { since: versions.since, row, before });
        Ok(())
    }

    /// The row, with the key of its certificate if this process has what opens it.
    fn with_key(&self, key: &str, stored: Stored) -> Row {
        let Stored { mut row, sealed } = stored;
        let sealed = sealed.get(&Class::Tls);
        let opened = sealed.map(|sealed| self.opener.open(Class::Tls, key, sealed));
        match opened {
            Some(Ok(opened)) => row.put_key(String::from_utf8_lossy(&opened).into_owned()),
            // Not for everybody: who is to show certificates was given the key.
            Some(Err(error)) => tracing::debug!(event = "certificate_sealed", key, %error),
            None => {}
        }
        row
    }

    fn has(&self, row: &Row) -> bool {
        row.domain().is_some_and(|domain| self.table.has(domain, row.name().as_deref()))
    }

    fn add(&mut self, key: &str, row: &Row, print: Print) {
        self.digest.add(print);
        if row.has_login() {
            self.stand_ins.offer(key);
        }
        self.table.put(row);
    }

    fn wait(&mut self, key: &str, waiting: Waiting) {
        if self.is_overfull || self.waiting.len() >= WAITING_MAX {
            self.is_overfull = true;
            self.waiting = HashMap::new();
        } else {
            self.waiting.insert(key.to_owned(), waiting);
        }
    }

    /// Makes it the generation of `marker`, if all of that is here.
    pub(crate) fn advance(&mut self, marker: &Marker) -> Result<(), Incomplete> {
        if marker.version != VERSION {
            return Err(Incomplete::Version(marker.version));
        }
        if marker.history != self.marker.history || marker.generation < self.marker.generation {
            return Err(Incomplete::Differs(marker.generation));
        }
        if marker.generation > self.marker.generation {
            if self.is_overfull {
                return Err(Incomplete::Overfull);
            }
            self.put_in_force(marker.generation);
        }
        self.marker = marker.clone();
        self.table.set_postmaster(marker.postmaster.clone());
        self.table.set_scram(marker.scram);
        if self.digest.text() != marker.digest || self.digest.rows != marker.rows {
            return Err(Incomplete::Differs(marker.generation));
        }
        Ok(self.table.check_whole()?)
    }

    fn put_in_force(&mut self, generation: u64) {
        let (due, later) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, waiting)| waiting.since <= generation);
        self.waiting = later;
        let due: HashMap<String, Waiting> = due;
        for (key, Waiting { row, before, .. }) in due {
            if let Some((before, print)) = before {
                self.digest.remove(print);
                if let (None, Some(domain)) = (&row, before.domain()) {
                    self.table.remove(domain, before.name().as_deref());
                }
            }
            if let Some((row, print)) = row {
                self.add(&key, &row, print);
            }
        }
    }

    /// The table, and who stands in for logins that nobody has.
    pub(crate) fn table(&self) -> (Table, StandIns) {
        (self.table.clone(), self.stand_ins.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(row: &str) -> Option<Stored> {
        Some(Stored { row: serde_json::from_str(row).unwrap(), sealed: Default::default() })
    }

    fn domain() -> Option<Stored> {
        stored(r#"{"kind":"domain","domain":"d.test","inbound":true,"tenant":"t"}"#)
    }

    fn mailbox(name: &str) -> Option<Stored> {
        stored(&format!(r#"{{"kind":"mailbox","address":"{name}@d.test"}}"#))
    }

    fn alias(name: &str) -> Option<Stored> {
        let to = "x@e.test";
        stored(&format!(r#"{{"kind":"alias","domain":"d.test","name":"{name}","to":["{to}"]}}"#))
    }

    fn marker(generation: u64, rows: &[Option<Stored>]) -> Marker {
        let mut digest = Digest::default();
        for stored in rows.iter().flatten() {
            let key = keys::of_row(&stored.row).unwrap();
            digest.add(Print::of(&key, stored).unwrap());
        }
        Marker {
            version: VERSION,
            history: "h".to_owned(),
            generation,
            domains: 1,
            mailboxes: 0,
            rows: digest.rows,
            digest: digest.text(),
            postmaster: None,
            scram: false,
            keys: Default::default(),
        }
    }

    fn take(contents: &mut Contents, since: u64, now: Option<Stored>, before: Option<Stored>) {
        let row = now.as_ref().or(before.as_ref()).unwrap();
        let key = keys::of_row(&row.row).unwrap();
        contents.take_row(&key, Versions { since, now, before }).unwrap();
    }

    fn names(contents: &Contents) -> Vec<String> {
        let mut names: Vec<String> =
            contents.table().0.rows().filter_map(|row| row.name()).collect();
        names.sort();
        names
    }

    /// The first and the second generation; `a` changes, `b` goes and `c` comes.
    fn generations() -> [Marker; 2] {
        [
            marker(1, &[domain(), mailbox("a"), mailbox("b")]),
            marker(2, &[domain(), alias("a"), mailbox("c")]),
        ]
    }

    #[test]
    fn a_generation_counts_when_its_marker_is_there() {
        let [first, second] = generations();
        let mut contents = Contents::begin(first.clone(), Arc::default()).unwrap();
        take(&mut contents, 1, mailbox("a"), None);
        take(&mut contents, 1, domain(), None);
        assert!(matches!(contents.advance(&first), Err(Incomplete::Differs(1))), "b is missing");
        // The second is under way when the first is read: b was written over already.
        take(&mut contents, 2, None, mailbox("b"));
        contents.advance(&first).unwrap();
        assert_eq!(names(&contents), ["a", "b"]);
        take(&mut contents, 2, alias("a"), mailbox("a"));
        assert!(matches!(contents.advance(&second), Err(Incomplete::Differs(2))), "c is missing");
    }

    #[test]
    fn what_comes_later_changes_what_was_read() {
        let [first, second] = generations();
        let mut contents = Contents::begin(first.clone(), Arc::default()).unwrap();
        take(&mut contents, 1, domain(), None);
        take(&mut contents, 1, mailbox("a"), None);
        take(&mut contents, 1, mailbox("b"), None);
        contents.advance(&first).unwrap();
        let before = contents.table().0;
        // A writer that did not finish, and one that did.
        take(&mut contents, 2, mailbox("z"), None);
        take(&mut contents, 2, alias("a"), mailbox("a"));
        contents.advance(&first).unwrap();
        assert_eq!(names(&contents), ["a", "b"]);
        let gone = Versions { since: 2, now: None, before: None };
        contents.take_row("e.d_test.z", gone).unwrap();
        take(&mut contents, 2, mailbox("c"), None);
        take(&mut contents, 2, None, mailbox("b"));
        contents.advance(&second).unwrap();
        assert_eq!(names(&contents), ["a", "c"]);
        assert_eq!(before.row_count(), 3, "the table before has changed");
        assert!(matches!(contents.advance(&first), Err(Incomplete::Differs(1))), "backwards");
        let other = Marker { history: "other".to_owned(), ..second };
        assert!(matches!(contents.advance(&other), Err(Incomplete::Differs(2))));
    }

    #[test]
    fn too_many_changes_are_read_anew() {
        let [first, second] = generations();
        let mut contents = Contents::begin(first.clone(), Arc::default()).unwrap();
        take(&mut contents, 1, domain(), None);
        take(&mut contents, 1, mailbox("a"), None);
        take(&mut contents, 1, mailbox("b"), None);
        for n in 0..=WAITING_MAX {
            take(&mut contents, 2, mailbox(&format!("u{n}")), None);
        }
        assert!(contents.waiting.is_empty());
        contents.advance(&first).unwrap();
        assert!(matches!(contents.advance(&second), Err(Incomplete::Overfull)));
    }
}
