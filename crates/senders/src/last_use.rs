//! When passwords were used last.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mail_types::Timestamp;
use serde::{Deserialize, Serialize};

/// Names of passwords that are remembered of a mailbox: the 10 that it may have, and those that
/// they replaced.
const NAMES_MAX: usize = 20;

/// A login that succeeded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastUse {
    pub at: Timestamp,
    /// The listener, `submission` or `submissions`; `dovecot` for IMAP and POP3.
    pub by: String,
}

/// The last uses of a mailbox's passwords, by their names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LastUses(BTreeMap<String, LastUse>);

impl LastUses {
    pub fn of(&self, name: &str) -> Option<&LastUse> {
        self.0.get(name)
    }

    /// The latest of all.
    pub fn latest(&self) -> Option<Timestamp> {
        self.0.values().map(|last_use| last_use.at).max()
    }

    /// Remembers a use, if it is later than what is known. Of too many the oldest is forgotten.
    pub fn add(&mut self, name: &str, last_use: LastUse) {
        let known = self.0.get(name).is_some_and(|known| known.at >= last_use.at);
        if known {
            return;
        }
        self.0.insert(name.to_owned(), last_use);
        if self.0.len() > NAMES_MAX {
            let oldest = self.0.iter().min_by_key(|(_, last_use)| last_use.at);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.0.remove(&name);
            }
        }
    }

    /// Remembers what `others` know.
    pub fn merge(&mut self, others: Self) {
        others.0.into_iter().for_each(|(name, last_use)| self.add(&name, last_use));
    }
}

/// Where last uses are kept.
#[async_trait]
pub trait LastUseStore: Send + Sync {
    /// Adds last uses, by login.
    ///
    /// # Errors
    /// Some may not be kept. Added again they are.
    async fn add(&self, uses: &BTreeMap<String, LastUses>) -> Result<(), Unstored>;

    /// What is kept of a login.
    ///
    /// # Errors
    /// It is not known at the moment.
    async fn of(&self, login: &str) -> Result<LastUses, Unstored>;
}

/// Why last uses are not kept, or not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unstored(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    fn used(ms: i64) -> LastUse {
        LastUse { at: Timestamp::from_unix_ms(ms), by: "submission".to_owned() }
    }

    #[test]
    fn the_later_one_stays() {
        let (mut uses, mut others) = (LastUses::default(), LastUses::default());
        uses.add("phone", used(7));
        uses.add("phone", used(5));
        others.add("phone", used(6));
        others.add("mac", used(1));
        uses.merge(others);
        assert_eq!(uses.of("phone"), Some(&used(7)));
        assert_eq!(uses.of("mac"), Some(&used(1)));
        assert_eq!((uses.of("other"), uses.latest()), (None, Some(used(7).at)));
    }

    #[test]
    fn of_too_many_the_oldest_goes() {
        let mut uses = LastUses::default();
        (0..30).for_each(|n| uses.add(&format!("p{n}"), used(n)));
        assert_eq!((uses.0.len(), uses.of("p9")), (NAMES_MAX, None));
        assert!(uses.of("p10").is_some() && uses.of("p29").is_some());
    }

    #[test]
    fn the_stored_form() {
        let mut uses = LastUses::default();
        uses.add("phone", used(7));
        let text = serde_json::to_string(&uses).unwrap();
        assert_eq!(text, r#"{"phone":{"at":7,"by":"submission"}}"#);
        assert_eq!(serde_json::from_str::<LastUses>(&text).unwrap(), uses);
    }
}
