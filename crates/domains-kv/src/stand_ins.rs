//! Whose passwords are tried for logins that nobody has.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// So many keys are remembered, of however many there are.
const KEYS_MAX: usize = 64;

/// Keys of mailboxes with passwords: a choice that depends on nothing but which there are.
#[derive(Clone, Default, Debug)]
pub(crate) struct StandIns(BTreeMap<u64, String>);

impl StandIns {
    /// A mailbox with a password.
    pub(crate) fn offer(&mut self, key: &str) {
        let hash = hash(key);
        if self.0.len() >= KEYS_MAX {
            match self.0.last_key_value() {
                Some((&last, _)) if last > hash => drop(self.0.remove(&last)),
                Some(_) | None => return,
            }
        }
        self.0.insert(hash, key.to_owned());
    }

    /// Always the same for the same login.
    pub(crate) fn of(&self, login: &str) -> Option<&str> {
        let nth = hash(&login.to_ascii_lowercase()) % (self.0.len() as u64).max(1);
        let (_, key) = self.0.iter().nth(usize::try_from(nth).ok()?)?;
        Some(key)
    }
}

/// Without a secret: it decides nothing that a client gains by.
fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many_in_any_order() {
        let keys: Vec<String> = (0..1000).map(|n| format!("e.d_test.user{n}")).collect();
        let (mut one, mut two) = (StandIns::default(), StandIns::default());
        assert_eq!(one.of("nobody"), None);
        keys.iter().for_each(|key| one.offer(key));
        keys.iter().rev().for_each(|key| two.offer(key));
        assert_eq!(one.0, two.0);
        assert_eq!(one.0.len(), KEYS_MAX);
        assert!(one.of("nobody@d.test").is_some());
        assert_eq!(one.of("nobody@d.test"), one.of("NOBODY@d.test"));
    }
}
