//! The one thread that appends: what waits while one sync runs shares the next.
//!
//! A segment whose write or sync failed is never touched again. The next segment's header says how
//! far the old one is valid, and is durable before anybody hears of a refusal; when not even that
//! can be done, the outcome is unknown.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use queue::JobId;
use tokio::sync::mpsc;

use crate::checkpoint::Position;
use crate::disk::{self, DiskFile};
use crate::index::{Index, Location, Segment};
use crate::recovery::Recovered;
use crate::segment::{self, DATA_START, End, SegmentHeader};
use crate::shared::{Message, Outcome, Request, Shared};

/// Octets that one sync takes at most, but for a record that is larger.
const BATCH_BYTES: u64 = 8 << 20;
const BATCH_RECORDS: usize = 1024;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Message>,
    tail: Tail,
    spare: Option<File>,
    next_sequence: u32,
    /// Tells the janitor that there may be something to do.
    poke: std::sync::mpsc::SyncSender<()>,
}

/// Where the log ends.
enum Tail {
    Open {
        file: File,
        at: u32,
    },
    /// Nothing may be appended before a new segment says that this one ends there.
    Sealed {
        sequence: u32,
        valid_to: u32,
        end: End,
    },
}

/// A segment with its room on the disk.
struct File {
    sequence: NonZeroU32,
    mark: u64,
    capacity: u32,
    file: Arc<dyn DiskFile>,
}

impl Writer {
    /// A writer that goes on after what was read.
    pub(crate) fn new(
        shared: Arc<Shared>,
        requests: mpsc::Receiver<Message>,
        poke: std::sync::mpsc::SyncSender<()>,
        found: &Recovered,
    ) -> Self {
        let (sequence, valid_to) = found.last;
        let tail = Tail::Sealed { sequence, valid_to, end: found.last_end };
        let next_sequence = found.next_sequence;
        Self { shared, requests, tail, spare: None, next_sequence, poke }
    }

    /// Begins the first segment. The queue opens without: a full disk can drain.
    pub(crate) fn start(&mut self) {
        if let Err(error) = self.reopen() {
            tracing::error!(%error, "cannot begin a segment of the log: mail waits");
        }
        self.prepare_spare();
    }

    /// Returns the end of the log when told to stop; what was asked before that is done.
    pub(crate) fn run(mut self) -> Position {
        let mut carried = None;
        while let Some(message) = carried.take().or_else(|| self.requests.blocking_recv()) {
            match message {
                Message::Stop => break,
                Message::Tick => self.tick(),
                // Nobody waits when the future was dropped.
                Message::Position(reply) => _ = reply.send(self.position()),
                Message::Append(first) => {
                    let (batch, next) = self.gather(*first);
                    carried = next;
                    self.append(batch);
                }
            }
        }
        self.position()
    }

    fn position(&self) -> Position {
        match &self.tail {
            Tail::Open { file, at } => Position { segment: file.sequence.get(), offset: *at },
            Tail::Sealed { sequence, valid_to, .. } => {
                Position { segment: *sequence, offset: *valid_to }
            }
        }
    }

    /// What waits already, and what came after it.
    fn gather(&mut self, first: Request) -> (Vec<Request>, Option<Message>) {
        let mut bytes = u64::from(first.record.len());
        let mut batch = vec![first];
        loop {
            match self.requests.try_recv() {
                Ok(Message::Append(next)) => {
                    bytes += u64::from(next.record.len());
                    if bytes > BATCH_BYTES || batch.len() == BATCH_RECORDS {
                        return (batch, Some(Message::Append(next)));
                    }
                    batch.push(*next);
                }
                Ok(other) => return (batch, Some(other)),
                Err(_) => return (batch, None),
            }
        }
    }

    fn tick(&mut self) {
        if matches!(self.tail, Tail::Sealed { .. })
            && let Err(error) = self.reopen()
        {
            tracing::warn!(%error, "still cannot begin a segment of the log");
        }
        self.prepare_spare();
        let can_write = self.spare.is_some() && matches!(self.tail, Tail::Open { .. });
        if can_write && self.shared.is_broken.swap(false, Ordering::AcqRel) {
            self.shared.changed.notify_waiters();
        }
    }

    fn append(&mut self, batch: Vec<Request>) {
        let mut batch = self.without_stale(batch);
        if batch.is_empty() {
            return;
        }
        let bytes: u64 = batch.iter().map(|request| u64::from(request.record.len())).sum();
        let outcome = match self.make_room(bytes) {
            Ok(()) => self.write(&mut batch),
            Err(error) => {
                self.shared.is_broken.store(true, Ordering::Release);
                Err(refused(error))
            }
        };
        match outcome {
            Ok(locations) => self.complete(batch, &locations),
            Err(outcome) => self.refuse(batch, &outcome),
        }
        self.prepare_spare();
    }

    /// Refuses what was made from records that are not the latest any more.
    fn without_stale(&self, batch: Vec<Request>) -> Vec<Request> {
        let mut touched: HashSet<JobId> = HashSet::new();
        let mut index = self.shared.index();
        let now = self.shared.now();
        let (good, stale): (Vec<_>, Vec<_>) = batch.into_iter().partition(|request| {
            request.expects.iter().all(|(job, places)| {
                touched.insert(*job) && index.schedule.payload(*job) == Some(places)
            })
        });
        stale.iter().for_each(|request| index.refuse(&request.effect, now));
        drop(index);
        answer(stale, &Outcome::Changed);
        good
    }

    /// Goes on to a segment in which `bytes` fit.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        match &self.tail {
            Tail::Open { file, at } if u64::from(file.capacity - at) >= bytes => return Ok(()),
            Tail::Open { .. } => {}
            Tail::Sealed { .. } => self.reopen()?,
        }
        let (sequence, valid_to) = match &self.tail {
            Tail::Open { file, at } if u64::from(file.capacity - at) >= bytes => return Ok(()),
            Tail::Open { file, at } => (file.sequence.get(), *at),
            // Just reopened.
            Tail::Sealed { .. } => return Err(io::Error::other("the log has no open segment")),
        };
        let next = self.take_file(u64::from(DATA_START) + bytes)?;
        // From here on nothing may follow in the old segment, whatever became of the header.
        let end = End::Synced;
        self.tail = Tail::Sealed { sequence, valid_to, end };
        self.write_header(&next, sequence, valid_to, end)?;
        self.open(next);
        let _ = self.poke.try_send(());
        Ok(())
    }

    fn open(&mut self, file: File) {
        self.shared.current.store(file.sequence.get(), Ordering::Release);
        self.tail = Tail::Open { file, at: DATA_START };
    }

    /// Begins a segment after one that failed; durable when this returns.
    fn reopen(&mut self) -> io::Result<()> {
        let Tail::Sealed { sequence, valid_to, end } = self.tail else { return Ok(()) };
        let result = self.take_file(0).and_then(|next| {
            self.write_header(&next, sequence, valid_to, end)?;
            next.file.sync()?;
            Ok(next)
        });
        self.shared.is_broken.store(result.is_err(), Ordering::Release);
        self.open(result?);
        self.shared.changed.notify_waiters();
        Ok(())
    }

    fn write_header(
        &self,
        next: &File,
        previous: u32,
        previous_valid_to: u32,
        previous_end: End,
    ) -> io::Result<()> {
        let (sequence, mark) = (next.sequence.get(), next.mark);
        let header = SegmentHeader { sequence, mark, previous, previous_valid_to, previous_end };
        next.file.write_at(0, &mut [IoSlice::new(&header.encode())])
    }

    /// Writes and syncs; gives the place of each record.
    fn write(&mut self, batch: &mut [Request]) -> Result<Vec<Location>, Outcome> {
        // `make_room` has seen to it.
        let Tail::Open { file, at } = &mut self.tail else { return Err(never_opened()) };
        let (start, mut end) = (*at, *at);
        let mut locations = Vec::with_capacity(batch.len());
        for request in batch.iter_mut() {
            request.record.place(file.mark, start, end);
            locations.push(Location::of(&request.record, file.sequence, end));
            end += request.record.len();
        }
        let mut parts: Vec<IoSlice<'_>> =
            batch.iter().flat_map(|request| request.record.parts()).map(IoSlice::new).collect();
        let written = file.file.write_at(start.into(), &mut parts).and_then(|()| file.file.sync());
        self.shared.metrics.syncs.inc();
        match written {
            Ok(()) => {
                *at = end;
                Ok(locations)
            }
            Err(error) => Err(self.failed(start, error)),
        }
    }

    /// A batch that begins at `start` failed: makes sure that nothing of it comes back.
    fn failed(&mut self, start: u32, error: io::Error) -> Outcome {
        tracing::error!(%error, "cannot write to the log: its segment is given up");
        self.shared.metrics.failed_batches.inc();
        if let Tail::Open { file, .. } = &self.tail {
            let sequence = file.sequence.get();
            self.tail = Tail::Sealed { sequence, valid_to: start, end: End::Synced };
        }
        match self.reopen() {
            Ok(()) => refused(error),
            Err(next) => {
                tracing::error!(error = %next, "cannot begin another segment of the log either");
                Outcome::Unknown(Arc::new(error))
            }
        }
    }

    fn complete(&self, batch: Vec<Request>, locations: &[Location]) {
        let metrics = &self.shared.metrics;
        metrics.records.inc_by(batch.len() as u64);
        metrics.batch_records.observe(batch.len() as f64);
        let mut replies = Vec::with_capacity(batch.len());
        let mut index = self.shared.index();
        let now = self.shared.now();
        for (request, at) in batch.into_iter().zip(locations) {
            index.apply(request.effect, *at, now);
            replies.push(request.reply);
        }
        let has_dead = self.has_dead(&index);
        drop(index);
        self.shared.changed.notify_waiters();
        for reply in replies {
            // Nobody waits when the future was dropped.
            let _ = reply.send(Outcome::Durable);
        }
        if has_dead {
            let _ = self.poke.try_send(());
        }
    }

    /// Whether the oldest segment can be freed.
    fn has_dead(&self, index: &Index) -> bool {
        let Tail::Open { file, .. } = &self.tail else { return false };
        let oldest = index.segments.first_key_value();
        oldest.is_some_and(|(&n, segment)| n < file.sequence.get() && segment.live == 0)
    }

    fn refuse(&self, batch: Vec<Request>, outcome: &Outcome) {
        let mut index = self.shared.index();
        let now = self.shared.now();
        batch.iter().for_each(|request| index.refuse(&request.effect, now));
        drop(index);
        self.shared.changed.notify_waiters();
        answer(batch, outcome);
    }

    /// A segment of at least `bytes`: the spare one, or a new one.
    fn take_file(&mut self, bytes: u64) -> io::Result<File> {
        if let Some(spare) = self.spare.take_if(|spare| u64::from(spare.capacity) >= bytes) {
            return Ok(spare);
        }
        let larger = self.create(bytes.max(self.shared.config.segment_bytes.into()))?;
        // Segments are read in the order of their numbers: used after it, the spare one would be
        // read before it.
        if let Some(spare) = self.spare.take() {
            self.discard(spare.sequence.get());
        }
        Ok(larger)
    }

    /// Deletes a segment that was not begun. One that stays is deleted when the log is opened.
    fn discard(&self, sequence: u32) {
        let path = segment::path(sequence);
        if let Err(error) = self.shared.disk.remove(&path) {
            tracing::warn!(path, %error, "cannot delete an unused segment");
        }
        self.shared.index().segments.remove(&sequence);
    }

    /// Has a segment ready beforehand: a full disk shows while there is still room to drain.
    fn prepare_spare(&mut self) {
        if self.spare.is_some() {
            return;
        }
        let was_short = self.shared.is_short.load(Ordering::Relaxed);
        match self.create(self.shared.config.segment_bytes.into()) {
            Ok(spare) => self.spare = Some(spare),
            Err(error) if is_full(&error) => {
                self.shared.is_short.store(true, Ordering::Relaxed);
                if !was_short {
                    tracing::error!(%error, "no room for a segment: mail from outside waits");
                }
            }
            Err(error) => tracing::warn!(%error, "cannot prepare a segment of the log"),
        }
    }

    fn create(&mut self, bytes: u64) -> io::Result<File> {
        // Sequences are used up after 2^32 x 64 MiB.
        let sequence = NonZeroU32::new(self.next_sequence).ok_or(io::ErrorKind::Other)?;
        let capacity = u32::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.next_sequence = sequence.get().wrapping_add(1);
        let path = segment::path(sequence.get());
        let created = self.shared.disk.create(&path).and_then(|file| {
            self.shared.room.taking(bytes, || file.allocate(bytes))?;
            // The first sync of the file makes its length durable, together with what it has.
            self.shared.disk.sync_dir(disk::LOG)?;
            Ok(file)
        });
        let file = created.inspect_err(|_| drop(self.shared.disk.remove(&path)))?;
        let mark = rand::random();
        let known = Segment { mark, bytes, live: 0 };
        self.shared.index().segments.insert(sequence.get(), known);
        Ok(File { sequence, mark, capacity, file })
    }
}

fn answer(requests: Vec<Request>, outcome: &Outcome) {
    for request in requests {
        let _ = request.reply.send(outcome.clone());
    }
}

fn refused(error: io::Error) -> Outcome {
    if is_full(&error) { Outcome::Full(Arc::new(error)) } else { Outcome::Refused(Arc::new(error)) }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn never_opened() -> Outcome {
    Outcome::Refused(Arc::new(io::Error::other("the log has no open segment")))
}
