//! What is stored, and how it is read.

use aws_lc_rs::digest;
use domains::Row;
use mail_types::Mailbox;
use serde::{Deserialize, Serialize};

/// Of all that is stored here. A reader of another version takes no new generation.
pub(crate) const VERSION: u32 = 1;

/// The two versions of a row that its key holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Versions {
    /// The first generation that has `row`.
    pub(crate) since: u64,
    /// `None` when the generation dropped it.
    pub(crate) row: Option<Row>,
    /// In force before `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Row>,
}

impl Versions {
    /// The row in a generation: that of the marker, or the one before it or after it.
    pub(crate) fn at(&self, generation: u64) -> Option<&Row> {
        if self.since <= generation { self.row.as_ref() } else { self.before.as_ref() }
    }
}

/// What makes a generation complete.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Marker {
    pub(crate) version: u32,
    /// A name that is new when there is no marker: numbers begin again then.
    pub(crate) history: String,
    /// Counted from 1.
    pub generation: u64,
    /// Domains whose mail is received here.
    pub domains: usize,
    pub mailboxes: usize,
    pub rows: usize,
    /// SHA-256 of all rows, in hexadecimal.
    pub(crate) digest: String,
    /// Where mail for `<postmaster>` goes.
    pub(crate) postmaster: Option<Mailbox>,
}

impl Marker {
    /// Whether it comes after `other`, as far as both tell.
    pub(crate) fn follows(&self, other: &Self) -> bool {
        self.history != other.history || self.generation > other.generation
    }
}

/// A sum over rows, given in the order of their keys.
pub(crate) fn digest<'a>(
    rows: impl Iterator<Item = (&'a str, &'a Row)>,
) -> Result<String, serde_json::Error> {
    let mut sum = digest::Context::new(&digest::SHA256);
    for (key, row) in rows {
        let row = serde_json::to_vec(row)?;
        for part in [key.as_bytes(), &row] {
            sum.update(&(part.len() as u64).to_be_bytes());
            sum.update(part);
        }
    }
    Ok(sum.finish().as_ref().iter().map(|octet| format!("{octet:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 1 wrote them.
    const VERSIONS: &str = concat!(
        r#"{"since":7,"row":{"kind":"mailbox","address":"a@b.example"},"#,
        r#""before":{"kind":"alias","domain":"b.example","name":"a","to":["c@d.example"]}}"#,
    );
    const DOMAIN: &str = concat!(
        r#"{"since":1,"row":{"kind":"domain","domain":"b.example","inbound":true,"#,
        r#""tenant":"default","maxMessageSizeBytes":70000,"catchAll":["c@d.example"]}}"#,
    );
    const MARKER: &str = concat!(
        r#"{"version":1,"history":"h","generation":7,"domains":1,"mailboxes":1,"#,
        r#""rows":2,"digest":"00","postmaster":"a@b.example"}"#,
    );

    #[test]
    fn the_first_format_is_read_and_written() {
        for text in [VERSIONS, DOMAIN] {
            let versions: Versions = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&versions).unwrap(), text);
        }
        let marker: Marker = serde_json::from_str(MARKER).unwrap();
        assert_eq!(serde_json::to_string(&marker).unwrap(), MARKER);
    }

    #[test]
    fn a_version_counts_from_its_generation_on() {
        let versions: Versions = serde_json::from_str(VERSIONS).unwrap();
        assert_eq!(versions.at(6), versions.before.as_ref());
        assert_eq!(versions.at(7), versions.row.as_ref());
        assert_eq!(versions.at(8), versions.row.as_ref());
    }

    #[test]
    fn the_digest_sees_every_change() {
        let row = |text: &str| serde_json::from_str::<Versions>(text).unwrap().row.unwrap();
        let (a, b) = (row(VERSIONS), row(DOMAIN));
        let of = |rows: &[(&str, &Row)]| digest(rows.iter().copied()).unwrap();
        let all = of(&[("x", &a), ("y", &b)]);
        for other in [&[("x", &a)][..], &[("x", &a), ("z", &b)], &[("x", &b), ("y", &a)], &[]] {
            assert_ne!(of(other), all);
        }
    }
}
