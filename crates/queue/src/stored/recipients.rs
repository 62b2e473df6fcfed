//! A set of places in a job's list of recipients, short when written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Written as ranges, `0-4,7`, or, when that is shorter, as `x` and a bitmap in hexadecimal
/// digits, the lowest four places first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct RecipientSet(Vec<u32>);

#[derive(Debug, thiserror::Error)]
#[error("not a set of recipients")]
pub(super) struct RecipientSetError;

impl RecipientSet {
    /// The largest place: SMTP servers limit recipients far below it.
    const MAX: u32 = 1 << 20;

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        self.0.retain(|&place| keep(place));
    }

    pub(super) fn extend(&mut self, places: impl IntoIterator<Item = u32>) {
        self.0.extend(places.into_iter().filter(|&place| place < Self::MAX));
        self.0.sort_unstable();
        self.0.dedup();
    }

    fn ranges(&self) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for &place in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == place => *last = place,
                _ => ranges.push((place, place)),
            }
        }
        let texts: Vec<String> = ranges
            .into_iter()
            .map(|(first, last)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            })
            .collect();
        texts.join(",")
    }

    fn bitmap(&self) -> String {
        let mut nibbles = vec![0u8; self.0.last().map_or(0, |&last| last as usize / 4 + 1)];
        for &place in &self.0 {
            nibbles[place as usize / 4] |= 1 << (place % 4);
        }
        let digits = nibbles.into_iter().filter_map(|n| char::from_digit(n.into(), 16));
        std::iter::once('x').chain(digits).collect()
    }

    fn from_bitmap(digits: &str) -> Option<Self> {
        let mut places = Vec::new();
        for (base, digit) in (0..Self::MAX).step_by(4).zip(digits.chars()) {
            let nibble = digit.to_digit(16)?;
            places.extend((0..4).filter(|bit| nibble & (1 << bit) != 0).map(|bit| base + bit));
        }
        Some(Self(places))
    }

    fn from_ranges(text: &str) -> Option<Self> {
        let mut set = Self::default();
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if last >= Self::MAX {
                return None;
            }
            set.0.extend(first..=last);
        }
        set.extend([]);
        Some(set)
    }
}

impl fmt::Display for RecipientSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ranges, bitmap) = (self.ranges(), self.bitmap());
        f.write_str(if ranges.len() <= bitmap.len() { &ranges } else { &bitmap })
    }
}

impl FromStr for RecipientSet {
    type Err = RecipientSetError;

    fn from_str(text: &str) -> Result<Self, RecipientSetError> {
        let set = match text.strip_prefix('x') {
            Some(digits) => Self::from_bitmap(digits),
            None => Self::from_ranges(text),
        };
        set.ok_or(RecipientSetError)
    }
}

impl TryFrom<String> for RecipientSet {
    type Error = RecipientSetError;

    fn try_from(text: String) -> Result<Self, RecipientSetError> {
        text.parse()
    }
}

impl From<RecipientSet> for String {
    fn from(set: RecipientSet) -> Self {
        set.to_string()
    }
}

impl FromIterator<u32> for RecipientSet {
    fn from_iter<I: IntoIterator<Item = u32>>(places: I) -> Self {
        let mut set = Self::default();
        set.extend(places);
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_shorter_form() {
        let set: RecipientSet = (0..1000).collect();
        assert_eq!(set.to_string(), "0-999");
        let every_other: RecipientSet = (0..1000).step_by(2).collect();
        assert_eq!(every_other.to_string().len(), 251);
        assert_eq!(RecipientSet::default().to_string(), "");
        for text in ["1-", "-1", "a", "xg", "0-4000000000", "1,,x"] {
            assert!(text.parse::<RecipientSet>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printing_is_parsed_back(places: Vec<u16>) {
            let set: RecipientSet = places.into_iter().map(u32::from).collect();
            for text in [set.to_string(), set.ranges(), set.bitmap()] {
                prop_assert_eq!(&text.parse::<RecipientSet>().unwrap(), &set);
            }
        }
    }
}
