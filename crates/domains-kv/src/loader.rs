//! Keeps a role's table the one that is in force.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_nats::jetstream::kv::Watch;
use async_trait::async_trait;
use domains::{Absence, Table};
use futures::StreamExt;
use nats::Cause;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::bucket::{Bucket, BucketError};
use crate::contents::Contents;
use crate::record::Marker;

/// Between two looks at the leader's marker: the watch may have come to rest.
const LOOK: Duration = Duration::from_secs(2);
/// So many looks in a row must find another generation before all is read anew.
const LOOKS: u32 = 3;
/// Between two tries to read the bucket, growing.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// The longest that a client waits for a proof.
const PROOF: Duration = Duration::from_secs(5);

/// Watches the bucket and puts every complete generation in force.
pub struct Loader {
    bucket: Bucket,
    table: Arc<ArcSwapOption<Table>>,
    /// The table that came last, and its marker. `None` until one was complete.
    loaded: watch::Sender<Option<Loaded>>,
    /// What the leader said last.
    said: Mutex<Said>,
}

#[derive(Clone)]
struct Loaded {
    marker: Marker,
    table: Arc<Table>,
}

/// An answer of the leader, and when it was asked.
struct Said {
    asked_at: Instant,
    marker: Option<Marker>,
}

impl Loader {
    /// Servers need not be there yet. Tables are put into `table` by [`Loader::run`].
    ///
    /// # Errors
    /// A file of the configuration cannot be read.
    pub async fn new(
        config: &Config,
        table: Arc<ArcSwapOption<Table>>,
    ) -> Result<Self, BucketError> {
        let bucket = Bucket::connect_later(config).await?;
        let said = Mutex::new(Said { asked_at: Instant::now(), marker: None });
        Ok(Self { bucket, table, loaded: watch::Sender::new(None), said })
    }

    /// Waits until there is a table.
    pub async fn loaded(&self) {
        // The sender lives as long as we do.
        let _ = self.loaded.subscribe().wait_for(Option::is_some).await;
    }

    /// Reads and watches the bucket until `stop`. What goes wrong changes nothing: the last
    /// complete table stays in force.
    pub async fn run(&self, stop: CancellationToken) {
        let work = async {
            let mut pause = RETRY;
            loop {
                let begun = Instant::now();
                let error = match Reading::begin(self).await {
                    Ok(mut reading) => reading.go_on().await,
                    Err(error) => error,
                };
                // One that went well for long begins anew.
                pause =
                    if begun.elapsed() > RETRY_MAX { RETRY } else { (pause * 2).min(RETRY_MAX) };
                tracing::warn!(event = "table_waits", %error, "the bucket is read anew");
                tokio::time::sleep(pause).await;
            }
        };
        // Boxed: what watches is large, and there is one.
        stop.run_until_cancelled(Box::pin(work)).await;
    }

    fn put(&self, marker: Marker, table: Table) {
        let is_new = self.loaded.borrow().as_ref().is_none_or(|old| marker.follows(&old.marker));
        if !is_new {
            return;
        }
        tracing::info!(
            event = "table_changed",
            generation = marker.generation,
            domains = marker.domains,
            mailboxes = marker.mailboxes,
        );
        let table = Arc::new(table);
        self.table.store(Some(table.clone()));
        self.loaded.send_replace(Some(Loaded { marker, table }));
    }

    /// The leader's marker, asked after this call began. Those who wait together, in the queue that
    /// the lock makes, share an answer.
    async fn marker(&self) -> Option<Marker> {
        let begun = Instant::now();
        let mut said = self.said.lock().await;
        if said.asked_at <= begun {
            let asked_at = Instant::now();
            let answer = tokio::time::timeout(PROOF, self.bucket.marker()).await;
            let marker = answer.map_err(Cause::from).flatten();
            let marker = marker.inspect_err(|error| {
                tracing::debug!(%error, "the leader's marker is not known");
            });
            *said = Said { asked_at, marker: marker.ok().flatten() };
        }
        said.marker.clone()
    }
}

#[async_trait]
impl Absence for Loader {
    async fn is_proven(&self, table: &Arc<Table>) -> bool {
        let marker = match &*self.loaded.borrow() {
            Some(loaded) if Arc::ptr_eq(&loaded.table, table) => loaded.marker.clone(),
            Some(_) | None => return false,
        };
        self.marker().await == Some(marker)
    }
}

/// One way through the bucket, from its beginning.
struct Reading<'a> {
    loader: &'a Loader,
    watch: Watch,
    contents: Contents,
    /// All that was there at the beginning has been read.
    is_current: bool,
    ticks: Interval,
    /// Looks in a row at which the leader had another generation and the watch nothing new.
    behind: u32,
}

impl<'a> Reading<'a> {
    async fn begin(loader: &'a Loader) -> Result<Self, Cause> {
        let watch = loader.bucket.watch().await?;
        let (contents, ticks) = (Contents::default(), tokio::time::interval(LOOK));
        Ok(Self { loader, watch, contents, is_current: false, ticks, behind: 0 })
    }

    /// Goes on until the bucket must be read anew.
    async fn go_on(&mut self) -> Cause {
        loop {
            // Cancel-safe: an entry that was not taken is still in the watch.
            let gone_on = tokio::select! {
                entry = self.watch.next() => match entry {
                    Some(Ok(entry)) => self.take(&entry),
                    Some(Err(error)) => Err(error.into()),
                    None => Err("the watch ended".into()),
                },
                _ = self.ticks.tick() => self.look().await,
            };
            if let Err(error) = gone_on {
                return error;
            }
        }
    }

    fn take(&mut self, entry: &async_nats::jetstream::kv::Entry) -> Result<(), Cause> {
        self.behind = 0;
        let is_marker = self.contents.take(entry)?;
        let is_first = entry.seen_current && !self.is_current;
        self.is_current = entry.seen_current;
        if self.contents.marker.is_some() && (is_first || (is_marker && self.is_current)) {
            let (marker, table) = self.contents.complete()?;
            self.loader.put(marker, table);
        }
        Ok(())
    }

    /// A bucket that was emptied, or deleted and made again, says so to nobody who watches.
    async fn look(&mut self) -> Result<(), Cause> {
        let loaded = self.loader.loaded.borrow().as_ref().map(|loaded| loaded.marker.clone());
        match self.loader.marker().await {
            Some(marker) if Some(&marker) != loaded.as_ref() => self.behind += 1,
            Some(_) | None => self.behind = 0,
        }
        if self.behind >= LOOKS {
            return Err("the leader has another generation than the watch".into());
        }
        Ok(())
    }
}
