//! What is stored, and how it is read.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use domains::Row;
use mail_types::Mailbox;
use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::seal::Sealed;

/// Of all that is stored here. A reader of another version takes no new generation; a writer writes
/// over what an older one wrote, which had hashes of passwords unsealed.
pub(crate) const VERSION: u32 = 2;

/// The two versions of a row that its key holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Versions {
    /// The first generation that has `now`.
    pub(crate) since: u64,
    /// `None` when the generation dropped it.
    pub(crate) now: Option<Stored>,
    /// In force before `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Stored>,
}

/// A row, and its secrets apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) row: Row,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sealed: BTreeMap<Class, Sealed>,
}

impl Versions {
    /// The row in a generation: that of the marker, or the one before it or after it.
    pub(crate) fn at(&self, generation: u64) -> Option<&Stored> {
        if self.since <= generation { self.now.as_ref() } else { self.before.as_ref() }
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
    /// The [`Digest`] of all rows.
    pub(crate) digest: String,
    /// Where mail for `<postmaster>` goes.
    pub(crate) postmaster: Option<Mailbox>,
    /// Whether somebody may log in by SCRAM-SHA-256: what mechanisms a role offers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) scram: bool,
    /// The ids of the keys that secrets are sealed to.
    #[serde(default)]
    pub(crate) keys: BTreeMap<Class, String>,
}

impl Marker {
    /// Whether it tells of the same table.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        Self { generation: other.generation, ..self.clone() } == *other
    }

    /// Whether it comes after `other`, as far as both tell.
    pub(crate) fn follows(&self, other: &Self) -> bool {
        self.history != other.history || self.generation > other.generation
    }
}

/// A sum over rows, in any order: by it a row that is missing, or left over, is noticed. It is no
/// seal: who may write rows may write the marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Digest {
    sum: u128,
    pub(crate) rows: usize,
}

/// What a row adds to a [`Digest`]: the first half of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Print(u128);

impl Print {
    pub(crate) fn of(key: &str, stored: &Stored) -> Result<Self, serde_json::Error> {
        let mut sum = digest::Context::new(&digest::SHA256);
        sum.update(&(key.len() as u64).to_be_bytes());
        sum.update(key.as_bytes());
        sum.update(&serde_json::to_vec(stored)?);
        let sum = sum.finish();
        let octets = sum.as_ref().iter().take(16);
        Ok(Self(octets.fold(0, |number, octet| number << 8 | u128::from(*octet))))
    }
}

impl Digest {
    pub(crate) fn add(&mut self, print: Print) {
        self.sum = self.sum.wrapping_add(print.0);
        self.rows += 1;
    }

    /// Of both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { sum: self.sum.wrapping_add(other.sum), rows: self.rows + other.rows }
    }

    pub(crate) fn remove(&mut self, print: Print) {
        self.sum = self.sum.wrapping_sub(print.0);
        self.rows = self.rows.saturating_sub(1);
    }

    /// In hexadecimal.
    pub(crate) fn text(&self) -> String {
        format!("{:032x}", self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 2 wrote them.
    const VERSIONS: &str = concat!(
        r#"{"since":7,"now":{"row":{"kind":"mailbox","address":"a@b.example","#,
        r#""login":{"addresses":["a@b.example"]}},"#,
        r#""sealed":{"passwords":{"key":"0011","sum":"AA","text":"BB"}}},"before":{"row":"#,
        r#"{"kind":"alias","domain":"b.example","name":"a","to":["c@d.example"]}}}"#,
    );
    const DOMAIN: &str = concat!(
        r#"{"since":1,"now":{"row":{"kind":"domain","domain":"b.example","inbound":true,"#,
        r#""tenant":"default","maxMessageSizeBytes":70000,"catchAll":["c@d.example"]}}}"#,
    );
    const ALIAS_DOMAIN: &str = concat!(
        r#"{"since":1,"now":{"row":{"kind":"domain","domain":"c.example","inbound":true,"#,
        r#""tenant":"default","aliasOf":"b.example"}}}"#,
    );
    const SEND_ONLY: &str = concat!(
        r#"{"since":1,"now":{"row":{"kind":"mailbox","address":"app@b.example","sendOnly":true,"#,
        r#""login":{"addresses":[],"domains":["b.example","c.example"]}}}}"#,
    );
    const KEPT: &str = concat!(
        r#"{"since":1,"now":{"row":{"kind":"mailbox","address":"a@b.example","keeping":{"#,
        r#""storageId":"7a64adf28737ea90719cbdf0b1a87a5ebfabc37432958b063360d3ad6461c9c4","#,
        r#""quota":{"bytes":70000,"onFull":"reject"}}}}}"#,
    );
    const DOMAIN_WITH_QUOTA: &str = concat!(
        r#"{"since":1,"now":{"row":{"kind":"domain","domain":"c.example","inbound":true,"#,
        r#""tenant":"default","quota":{"bytes":70000}}}}"#,
    );
    const GATEWAY: &str = concat!(
        r#"{"since":1,"now":{"row":{"kind":"domain","domain":"g.example","inbound":true,"#,
        r#""tenant":"t","gateway":{"servers":["mail.g.example:25","[2001:db8::1]:26"],"#,
        r#""callAhead":true,"tls":"verify","authorities":"PEM","#,
        r#""login":{"user":"us","passwordFile":"t/at-g"}}}}}"#,
    );
    const RECIPIENT: &str =
        r#"{"since":1,"now":{"row":{"kind":"recipient","domain":"g.example","name":"carol"}}}"#;
    const MARKER: &str = concat!(
        r#"{"version":2,"history":"h","generation":7,"domains":1,"mailboxes":1,"#,
        r#""rows":2,"digest":"00","postmaster":"a@b.example","keys":{"passwords":"0011"}}"#,
    );
    /// As version 1 wrote it.
    const OLD_MARKER: &str = concat!(
        r#"{"version":1,"history":"h","generation":7,"domains":1,"mailboxes":1,"#,
        r#""rows":2,"digest":"00","postmaster":"a@b.example"}"#,
    );

    #[test]
    fn the_format_is_read_and_written() {
        for text in
            [VERSIONS, DOMAIN, ALIAS_DOMAIN, SEND_ONLY, KEPT, DOMAIN_WITH_QUOTA, GATEWAY, RECIPIENT]
        {
            let versions: Versions = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&versions).unwrap(), text);
        }
        let marker: Marker = serde_json::from_str(MARKER).unwrap();
        assert_eq!(serde_json::to_string(&marker).unwrap(), MARKER);
        let old: Marker = serde_json::from_str(OLD_MARKER).unwrap();
        assert_eq!((old.version, old.generation), (1, 7));
    }

    #[test]
    fn a_version_counts_from_its_generation_on() {
        let versions: Versions = serde_json::from_str(VERSIONS).unwrap();
        assert_eq!(versions.at(6), versions.before.as_ref());
        assert_eq!(versions.at(7), versions.now.as_ref());
        assert_eq!(versions.at(8), versions.now.as_ref());
    }

    #[test]
    fn the_digest_sees_every_change_and_no_order() {
        let row = |text: &str| serde_json::from_str::<Versions>(text).unwrap().now.unwrap();
        let (a, b) = (row(VERSIONS), row(DOMAIN));
        let of = |rows: &[(&str, &Stored)]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|(key, row)| digest.add(Print::of(key, row).unwrap()));
            digest
        };
        let all = of(&[("x", &a), ("y", &b)]);
        assert_eq!(of(&[("y", &b), ("x", &a)]), all);
        for other in [&[("x", &a)][..], &[("x", &a), ("z", &b)], &[("x", &b), ("y", &a)], &[]] {
            assert_ne!(of(other), all);
            assert_ne!(of(other).text(), all.text());
        }
        let mut less = all;
        less.remove(Print::of("y", &b).unwrap());
        assert_eq!(less, of(&[("x", &a)]));
    }
}
