//! What this process has done with mail.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use mail_types::{QueueId, Timestamp};
use queue::{Job, JobId, Settlement};

use crate::config::Config;
use crate::files::{self, Files};
use crate::outcomes::{Counter, Outcomes};
use crate::past::{Kept, Past, PastError};
use crate::remains::{Remains, What};

/// The history of a process. Clones are the same.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    /// None are kept without.
    files: Option<Mutex<Files>>,
    counter: Mutex<Counter>,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

impl History {
    /// Opens the files in `directory`. `clock` tells the time of day.
    pub fn open(
        directory: &Path,
        config: Config,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let files = match config.max_bytes {
            0 => None,
            max => Some(Mutex::new(Files::open(directory, max)?)),
        };
        Ok(Self(Arc::new(Inner {
            directory: directory.to_owned(),
            files,
            counter: Mutex::new(Counter::new(clock())),
            clock: Box::new(clock),
        })))
    }

    /// An outcome was recorded.
    pub(crate) fn settled(&self, job: &Job, settlement: &Settlement) {
        let now = (self.0.clock)();
        self.counter().count(settlement, now);
        if self.0.files.is_some() {
            self.keep(&Remains::of_settlement(job, settlement, now));
        }
    }

    /// An operator dropped a job.
    pub(crate) fn dropped(&self, job: JobId) {
        self.keep(&[Remains { at: (self.0.clock)(), job, what: What::Dropped }]);
    }

    fn keep(&self, remains: &[Remains]) {
        let Some(files) = self.0.files.as_ref().filter(|_| !remains.is_empty()) else { return };
        let mut lines = Vec::new();
        for line in remains {
            // What is made of types of ours can be written.
            if serde_json::to_writer(&mut lines, line).is_ok() {
                lines.push(b'\n');
            }
        }
        let written = files.lock().unwrap_or_else(PoisonError::into_inner).append(&lines);
        if let Err(error) = written {
            tracing::error!(event = "history_failed", %error, "`trace` will not know this mail");
        }
    }

    fn counter(&self) -> MutexGuard<'_, Counter> {
        self.0.counter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Past for History {
    async fn of(&self, message: QueueId) -> Result<Kept, PastError> {
        let directory = self.0.directory.clone();
        let found = tokio::task::spawn_blocking(move || files::find(&directory, message));
        Ok(Kept { remains: found.await.map_err(io::Error::from)??, unheard: 0 })
    }

    async fn outcomes(&self) -> Result<Outcomes, PastError> {
        let now = (self.0.clock)();
        Ok(self.counter().outcomes(now))
    }
}
