//! The snapshot of a queue for the one who copies it, ended when he is gone or in the way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use admin::process::{Snapshot, SnapshotFile};
use queue_log::LogQueue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;

/// How long it lasts without a word.
const LASTS: Duration = Duration::from_secs(30);
/// How long a snapshot is waited for: what is being deleted takes a moment.
const WAIT: Duration = Duration::from_secs(60);
/// Between two looks whether it is in the way.
const LOOK: Duration = Duration::from_secs(1);

/// Gives one snapshot at a time.
pub(crate) struct Snapshots {
    queue: Option<Arc<LogQueue>>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    current: Option<Current>,
    /// Why the last one ended by itself.
    ended: Option<(u64, &'static str)>,
}

struct Current {
    id: u64,
    until: Instant,
    snapshot: queue_log::Snapshot,
}

impl Snapshots {
    pub(crate) fn of(backend: &Backend) -> Self {
        let queue = match backend {
            Backend::Log(queue) => Some(Arc::clone(queue)),
            Backend::JetStream(_) => None,
        };
        Self { queue, held: Mutex::default() }
    }

    pub(crate) async fn take(&self) -> Result<Snapshot, String> {
        let Some(queue) = &self.queue else {
            return Err("the queue is on JetStream: docs/operations.md says how to save it".into());
        };
        if self.held().current.is_some() {
            return Err("another backup copies the queue: wait until it is done".into());
        }
        let taken = tokio::time::timeout(WAIT, queue.snapshot()).await;
        let taken = taken.map_err(|_| "the queue is busy: try again".to_owned())?;
        let snapshot = taken.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        let file =
            |file: &queue_log::LogFile| SnapshotFile { path: file.path.clone(), bytes: file.bytes };
        let log = snapshot.log().iter().map(file).collect();
        let id = rand::random();
        tracing::info!(event = "snapshot_taken", id, "nothing of the queue is deleted meanwhile");
        self.held().current = Some(Current { id, until: Instant::now() + LASTS, snapshot });
        Ok(Snapshot { id, lasts_seconds: LASTS.as_secs(), log })
    }

    pub(crate) fn keep(&self, id: u64) -> Result<(), String> {
        let mut held = self.held();
        match &mut held.current {
            Some(current) if current.id == id => {
                current.until = Instant::now() + LASTS;
                Ok(())
            }
            Some(_) | None => Err(held.why_not(id)),
        }
    }

    pub(crate) fn end(&self, id: u64) -> Result<(), String> {
        let mut held = self.held();
        if held.current.as_ref().is_none_or(|current| current.id != id) {
            return Err(held.why_not(id));
        }
        held.current = None;
        tracing::info!(event = "snapshot_ended", id);
        Ok(())
    }

    /// Ends what nobody asks for, and what keeps mail out.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            // Cancel-safe: a tick that is not taken comes again.
            tokio::select! {
                _ = ticks.tick() => self.look(Instant::now()),
                () = stop.cancelled() => return self.held().give_up("the process stopped"),
            }
        }
    }

    fn look(&self, now: Instant) {
        let mut held = self.held();
        let Some(current) = &held.current else { return };
        if current.snapshot.is_in_the_way() {
            held.give_up("the store is full, and what was deleted meanwhile is needed for mail");
        } else if current.until < now {
            held.give_up("nobody asked for it in time");
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn give_up(&mut self, why: &'static str) {
        if let Some(Current { id, .. }) = self.current.take() {
            tracing::warn!(event = "snapshot_given_up", id, why);
            self.ended = Some((id, why));
        }
    }

    fn why_not(&self, id: u64) -> String {
        match self.ended {
            Some((ended, why)) if ended == id => format!("the snapshot has ended: {why}"),
            Some(_) | None => "there is no such snapshot: was the process restarted?".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn snapshots(dir: &Path) -> Snapshots {
        let config = queue_log::Config {
            segment_bytes: 128 << 10,
            inline_body_bytes: 16 << 10,
            min_free_bytes: 0,
            ..queue_log::Config::default()
        };
        let queue = LogQueue::open(dir, config, queue_log::Metrics::default(), runtime::clock::now);
        Snapshots::of(&Backend::Log(Arc::new(queue.unwrap())))
    }

    #[tokio::test]
    async fn one_at_a_time_and_for_as_long_as_it_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = snapshots(dir.path());
        let Snapshot { id, log, .. } = snapshots.take().await.unwrap();
        assert_eq!(log.len(), 1);
        assert!(snapshots.take().await.unwrap_err().contains("another backup"));
        snapshots.look(Instant::now() + LASTS - LOOK);
        snapshots.keep(id).unwrap();
        assert!(snapshots.keep(id ^ 1).unwrap_err().contains("no such snapshot"));
        snapshots.end(id).unwrap();
        assert!(snapshots.end(id).is_err(), "once");
        let second = snapshots.take().await.unwrap();
        snapshots.look(Instant::now() + LASTS + LOOK);
        assert!(snapshots.keep(second.id).unwrap_err().contains("nobody asked"));
        assert!(snapshots.end(second.id).is_err(), "what was copied may not be whole");
        assert!(snapshots.take().await.is_ok());
    }
}
