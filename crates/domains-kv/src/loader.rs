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

use crate::Buckets;
use crate::bucket::{Bucket, BucketError};
use crate::class::Class;
use crate::contents::{Contents, Taken};
use crate::record::Marker;
use crate::seal::{OpenError, Opener};
use crate::stand_ins::StandIns;

/// Between two looks at the leader's marker: the watch may have come to rest.
const LOOK: Duration = Duration::from_secs(2);
/// So many looks in a row must find another generation before all is read anew.
const LOOKS: u32 = 3;
/// Between two tries to read the bucket, growing.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// The longest that a client waits for a proof.
pub(crate) const PROOF: Duration = Duration::from_secs(5);

/// Watches the bucket and puts every complete generation in force.
pub struct Loader {
    pub(crate) bucket: Bucket,
    table: Arc<ArcSwapOption<Table>>,
    /// The table that came last, and its marker. `None` until one was complete.
    pub(crate) loaded: watch::Sender<Option<Arc<Loaded>>>,
    pub(crate) opener: Arc<Opener>,
    /// What the role must be able to open.
    needs: Vec<Class>,
    /// What the leader said last.
    said: Mutex<Said>,
}

/// A generation that is in force.
pub(crate) struct Loaded {
    pub(crate) marker: Marker,
    pub(crate) table: Arc<Table>,
    pub(crate) stand_ins: StandIns,
}

/// An answer of the leader, and when it was asked.
struct Said {
    asked_at: Instant,
    marker: Option<Marker>,
}

impl Loader {
    /// Servers need not be there yet. Tables are put into `table` by [`Loader::run`]. The role
    /// needs secrets of the classes `needs`, which `opener` should have the keys of.
    ///
    /// # Errors
    /// A file of the configuration cannot be read.
    pub async fn new(
        config: &Buckets,
        table: Arc<ArcSwapOption<Table>>,
        opener: Opener,
        needs: Vec<Class>,
    ) -> Result<Self, BucketError> {
        let bucket = Bucket::connect_later(config).await?;
        let said = Mutex::new(Said { asked_at: Instant::now(), marker: None });
        let loaded = watch::Sender::new(None);
        let opener = Arc::new(opener);
        Ok(Self { bucket, table, loaded, opener, needs, said })
    }

    /// Waits until there is a table.
    pub async fn loaded(&self) {
        // The sender lives as long as we do.
        let _ = self.loaded.subscribe().wait_for(Option::is_some).await;
    }

    /// Tells of each table which key the role lacks for it, if any; does not end by itself.
    pub async fn missing_keys(&self, tell: impl Fn(Option<OpenError>)) {
        let mut loaded = self.loaded.subscribe();
        loop {
            let missing = loaded.borrow_and_update().as_ref().map(|it| self.missing(&it.marker));
            if let Some(missing) = missing {
                tell(missing);
            }
            if loaded.changed().await.is_err() {
                return;
            }
        }
    }

    /// The first key that the role needs for a generation and does not have.
    fn missing(&self, marker: &Marker) -> Option<OpenError> {
        let mut needed =
            self.needs.iter().filter_map(|class| Some((class, marker.keys.get(class)?)));
        needed.find_map(|(class, id)| self.opener.check(*class, id).err())
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

    fn put(&self, contents: &Contents, marker: Marker) {
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
        if let Some(error) = self.missing(&marker) {
            tracing::error!(event = "key_missing", %error);
        }
        let (table, stand_ins) = contents.table();
        let table = Arc::new(table);
        self.table.store(Some(table.clone()));
        self.loaded.send_replace(Some(Arc::new(Loaded { marker, table, stand_ins })));
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
        let marker = match self.loaded.borrow().as_deref() {
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
    /// The last one that was seen.
    marker: Marker,
    /// All that was there at the beginning has been read.
    is_current: bool,
    ticks: Interval,
    /// Looks in a row at which the leader had another generation and the watch nothing new.
    behind: u32,
}

impl<'a> Reading<'a> {
    /// Waits for a marker first: what came before any is in force nowhere.
    async fn begin(loader: &'a Loader) -> Result<Self, Cause> {
        let marker = loop {
            match loader.bucket.marker().await? {
                Some(marker) => break marker,
                None => tokio::time::sleep(RETRY).await,
            }
        };
        let contents = Contents::begin(marker.clone(), Arc::clone(&loader.opener))?;
        let (watch, ticks) = (loader.bucket.watch().await?, tokio::time::interval(LOOK));
        Ok(Self { loader, watch, contents, marker, is_current: false, ticks, behind: 0 })
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
        let taken = self.contents.take(entry)?;
        let is_first = entry.seen_current && !self.is_current;
        self.is_current = entry.seen_current;
        let is_marker = matches!(taken, Taken::Marker(_));
        if let Taken::Marker(marker) = taken {
            self.marker = marker;
        }
        if is_first || (is_marker && self.is_current) {
            self.contents.advance(&self.marker)?;
            self.loader.put(&self.contents, self.marker.clone());
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
