//! What may stand between the name of a mailbox and what its owner adds to it (RFC 5233 §1).

use serde::{Deserialize, Serialize};

/// Characters that need no quotes in an address, and that no program gives another meaning.
const ALLOWED: &str = "+-_=#";

/// The separators of a domain: each of them is one. None: there are no sub-addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Separators(Box<str>);

/// A text that is no list of separators.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SeparatorsError {
    #[error("{0:?} is none of {ALLOWED}")]
    Foreign(char),
    #[error("{0:?} is there twice")]
    Twice(char),
}

impl Default for Separators {
    fn default() -> Self {
        Self("+".into())
    }
}

impl TryFrom<String> for Separators {
    type Error = SeparatorsError;

    fn try_from(text: String) -> Result<Self, SeparatorsError> {
        for (at, separator) in text.char_indices() {
            if !ALLOWED.contains(separator) {
                return Err(SeparatorsError::Foreign(separator));
            }
            if text[..at].contains(separator) {
                return Err(SeparatorsError::Twice(separator));
            }
        }
        Ok(Self(text.into()))
    }
}

impl From<Separators> for String {
    fn from(separators: Separators) -> Self {
        separators.0.into()
    }
}

impl Separators {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The names that this may be a sub-address of, the longest first.
    pub(crate) fn bases<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let places = name.char_indices().rev();
        let separators = places.filter(|&(at, c)| at > 0 && self.0.contains(c));
        separators.map(move |(at, _)| &name[..at])
    }
}

/// What was added to the name `own` in `used`, with the separator: at least that.
pub(crate) fn tag<'a>(used: &'a str, own: &str) -> Option<&'a str> {
    let (head, tag) = used.split_at_checked(own.len())?;
    (head.eq_ignore_ascii_case(own) && tag.starts_with(|c| ALLOWED.contains(c))).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn separators(text: &str) -> Separators {
        Separators::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn the_longest_name_is_looked_for_first() {
        for (of, name, bases) in [
            ("+", "a+b+c", &["a+b", "a"][..]),
            ("+-", "mary-ann+lists", &["mary-ann", "mary"]),
            ("-", "mary+lists", &[]),
            ("", "mary+lists", &[]),
            ("+", "+lists", &[]),
            ("+", "", &[]),
            ("+", "j\u{fc}rgen+\u{fc}", &["j\u{fc}rgen"]),
        ] {
            assert_eq!(separators(of).bases(name).collect::<Vec<_>>(), bases, "{of:?} {name}");
        }
    }

    #[test]
    fn what_was_added() {
        for (used, own, added) in [
            ("Alice+Lists", "alice", Some("+Lists")),
            ("alice-", "alice", Some("-")),
            ("alice", "alice", None),
            ("alicex", "alice", None),
            ("al", "alice", None),
            ("\u{fc}+x", "x", None),
        ] {
            assert_eq!(tag(used, own), added, "{used}");
        }
    }

    #[test]
    fn what_separates_nothing_is_refused() {
        let parse = |text: &str| Separators::try_from(text.to_owned());
        assert_eq!(parse("+.").unwrap_err(), SeparatorsError::Foreign('.'));
        assert_eq!(parse("@").unwrap_err(), SeparatorsError::Foreign('@'));
        assert_eq!(parse("a").unwrap_err(), SeparatorsError::Foreign('a'));
        assert_eq!(parse("+-+").unwrap_err(), SeparatorsError::Twice('+'));
        assert!(parse("+").unwrap().is_default() && !parse("").unwrap().is_default());
        assert!(serde_saphyr::from_str::<Separators>("\"a b\"").is_err());
    }
}
