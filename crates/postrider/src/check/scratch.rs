//! A file of our own, to see whether one can be written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::UNIX_EPOCH;

use mail_types::Timestamp;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::LIMIT;

#[derive(Debug)]
pub(super) struct Scratch(File);

impl Scratch {
    /// Writes one and syncs it. It has no name by then: however the check ends, nothing stays.
    pub(super) fn write(directory: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(format!(".postrider-check-{process}-{count}"));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        file.write_all(&[b'x'; 4096])?;
        file.sync_all()?;
        Ok(Self(file))
    }

    /// When the disk says that it was written.
    pub(super) fn modified(&self) -> io::Result<Timestamp> {
        let since_epoch = self.0.metadata()?.modified()?.duration_since(UNIX_EPOCH);
        Ok(Timestamp::from_unix_ms(0) + since_epoch.unwrap_or_default())
    }

    /// Whom files that we write belong to.
    pub(super) fn owner(&self) -> io::Result<u32> {
        Ok(self.0.metadata()?.uid())
    }

    /// Works with files within the limit. A disk that hangs keeps a thread of its own, which ends
    /// with the process: a thread of the runtime would be waited for.
    pub(super) async fn within_limit<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (sender, receiver) = oneshot::channel();
        // Nobody listens any more when it took too long.
        std::thread::Builder::new().spawn(move || _ = sender.send(work()))?;
        match timeout(LIMIT, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(io::Error::other("the check panicked")),
            Err(_) => Err(io::Error::other(format!("nothing within {} s", LIMIT.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) =
            (Scratch::write(dir.path()).unwrap(), Scratch::write(dir.path()).unwrap());
        assert!(one.modified().unwrap() > Timestamp::from_unix_ms(0));
        assert!(other.owner().is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Scratch::write(&dir.path().join("none")).is_err());
    }
}
