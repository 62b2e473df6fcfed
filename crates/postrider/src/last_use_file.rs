//! When passwords were used last, of a process that shares it with no other: in a file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use runtime::private_file::write_whole;
use senders::{LastUseStore, LastUses, Unstored};
use serde::{Deserialize, Serialize};

/// Logins that are remembered, some 10 MB; of more those who have been away for longest are not.
const LOGINS_MAX: usize = 100_000;
const VERSION: u32 = 1;

/// All of it is in memory, and written whole.
pub(crate) struct LastUseFile {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    logins: BTreeMap<String, LastUses>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { version: VERSION, logins: BTreeMap::new() }
    }
}

impl LastUseFile {
    /// Reads the file. One that is damaged keeps no mail from being sent: it is written anew.
    pub(crate) fn open(path: &Path) -> Self {
        let kept = read(path).unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!(event = "last_uses_unreadable", %path, %error, "it is written anew");
            Kept::default()
        });
        Self { path: path.to_owned(), kept: Mutex::new(kept) }
    }

    fn merge(&self, uses: &BTreeMap<String, LastUses>) -> Result<String, Unstored> {
        // A panic while merging leaves last uses, not broken ones.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (login, uses) in uses {
            kept.logins.entry(login.clone()).or_default().merge(uses.clone());
        }
        kept.forget_beyond(LOGINS_MAX);
        serde_json::to_string(&*kept).map_err(|error| Unstored(error.to_string()))
    }
}

fn read(path: &Path) -> io::Result<Kept> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        read => read?,
    };
    let kept: Kept = serde_json::from_str(&text)?;
    let is_known = kept.version == VERSION;
    is_known.then_some(kept).ok_or_else(|| io::Error::other("it is of another version"))
}

impl Kept {
    fn forget_beyond(&mut self, max: usize) {
        let excess = self.logins.len().saturating_sub(max);
        if excess == 0 {
            return;
        }
        let mut by_age: Vec<_> =
            self.logins.iter().map(|(login, uses)| (uses.latest(), login.clone())).collect();
        by_age.sort();
        for (_, login) in by_age.into_iter().take(excess) {
            self.logins.remove(&login);
        }
    }
}

#[async_trait]
impl LastUseStore for LastUseFile {
    async fn add(&self, uses: &BTreeMap<String, LastUses>) -> Result<(), Unstored> {
        let (text, path) = (self.merge(uses)?, self.path.clone());
        let written = tokio::task::spawn_blocking(move || write_whole(&path, &text)).await;
        let written = written.unwrap_or_else(|error| Err(error.into()));
        written.map_err(|error| Unstored(format!("{}: {error}", self.path.display())))
    }

    async fn of(&self, login: &str) -> Result<LastUses, Unstored> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.logins.get(login).cloned().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use mail_types::Timestamp;
    use senders::LastUse;

    use super::*;

    fn used(login: &str, ms: i64) -> BTreeMap<String, LastUses> {
        let mut uses = LastUses::default();
        let at = Timestamp::from_unix_ms(ms);
        uses.add("phone", LastUse { at, by: "submission".to_owned() });
        BTreeMap::from([(login.to_owned(), uses)])
    }

    #[tokio::test]
    async fn it_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last-uses.json");
        let file = LastUseFile::open(&path);
        file.add(&used("alice@d.test", 7)).await.unwrap();
        file.add(&used("bob@d.test", 8)).await.unwrap();
        file.add(&used("alice@d.test", 5)).await.unwrap();
        let again = LastUseFile::open(&path);
        let alice = again.of("alice@d.test").await.unwrap();
        assert_eq!(alice.latest(), Some(Timestamp::from_unix_ms(7)));
        assert_eq!(again.of("carol@d.test").await.unwrap(), LastUses::default());
        for damaged in ["", "{", r#"{"version":2,"logins":{}}"#] {
            std::fs::write(&path, damaged).unwrap();
            let anew = LastUseFile::open(&path);
            assert_eq!(anew.of("alice@d.test").await.unwrap(), LastUses::default());
            anew.add(&used("bob@d.test", 9)).await.unwrap();
            assert!(read(&path).unwrap().logins.contains_key("bob@d.test"));
        }
        let nowhere = LastUseFile::open(&dir.path().join("none/last-uses.json"));
        assert!(nowhere.add(&used("bob@d.test", 9)).await.is_err());
    }

    #[test]
    fn of_too_many_the_oldest_go() {
        let mut kept = Kept::default();
        (0..10).for_each(|n| kept.logins.extend(used(&format!("u{n}"), 100 - n)));
        kept.forget_beyond(7);
        let left: Vec<&str> = kept.logins.keys().map(String::as_str).collect();
        assert_eq!(left, ["u0", "u1", "u2", "u3", "u4", "u5", "u6"]);
    }
}
