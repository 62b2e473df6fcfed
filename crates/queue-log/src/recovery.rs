//! Reading the log when it is opened.
//!
//! Segments are read in order, from where the checkpoint was taken. What is no record is copied to
//! `quarantine/` and passed over. A torn end of the last segment is what a crash leaves of records
//! that nobody was told of.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::ops::Range;

use mail_types::{QueueId, Timestamp};
use queue::JobId;
use queue::stored::{StoredError, StoredMessage, StoredState};

use crate::checkpoint::{self, Position};
use crate::disk::{self, Disk};
use crate::index::{Files, Index, Location, Places, Segment, new_entry};
use crate::metrics::Metrics;
use crate::record::{self, ContentPlace, Entry};
use crate::segment::{self, DATA_START, End, Found, Piece, SegmentError, SegmentHeader};

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoveryError {
    #[error("cannot use {path}")]
    Io { path: String, source: io::Error },
    #[error("{path}: {source}")]
    Newer { path: String, source: SegmentError },
    #[error("{path}: {source}")]
    NewerRecord { path: String, source: StoredError },
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Recovered {
    /// The last segment and where it ends; 0 when there is none.
    pub(crate) last: (u32, u32),
    pub(crate) last_end: End,
    pub(crate) next_sequence: u32,
    /// Octets that were read record by record.
    pub(crate) scanned_bytes: u64,
    /// Places that were set aside.
    pub(crate) damages: u64,
}

pub(crate) fn recover(
    disk: &dyn Disk,
    index: &mut Index,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<Recovered, RecoveryError> {
    let segments = segments(disk)?;
    let mut recovery =
        Recovery { disk, index, metrics, now, found: Recovered::default(), moving: None };
    let valid_to = recovery.register(&segments);
    let mut from = recovery.load_checkpoint();
    if let Some((&last, _)) = segments.last_key_value()
        && last < from.segment
    {
        // The segment at which the index was saved was lost with what was not synced. Where the
        // one before it ends is known to nobody else.
        from = Position { segment: last, offset: DATA_START };
    }
    for (n, (&sequence, segment)) in segments.iter().enumerate() {
        recovery.found.next_sequence = sequence + 1;
        let Some(header) = &segment.header else { continue };
        let start = if sequence == from.segment { from.offset } else { DATA_START };
        let end = valid_to.get(&sequence).copied();
        let is_last = n + 1 == segments.len();
        if sequence >= from.segment {
            recovery.read_segment(header, start, end, is_last)?;
        }
    }
    recovery.found.next_sequence = recovery.found.next_sequence.max(1);
    let oldest = segments.keys().next().copied().unwrap_or(u32::MAX);
    recovery.forget_before(oldest);
    recovery.index.count_live();
    Ok(recovery.found)
}

/// A segment before it is read.
struct OnDisk {
    bytes: u64,
    /// None when it is damaged.
    header: Option<SegmentHeader>,
}

/// The segments that were begun. A spare one is deleted, one without a legible header is set aside.
fn segments(disk: &dyn Disk) -> Result<BTreeMap<u32, OnDisk>, RecoveryError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |source| RecoveryError::Io { path, source }
    };
    let mut segments = BTreeMap::new();
    for entry in disk.list(disk::LOG).map_err(failed(disk::LOG))? {
        let Some(sequence) = segment::sequence(&entry.name) else { continue };
        let path = segment::path(sequence);
        let mut start = vec![0; usize::try_from(entry.len.min(DATA_START.into())).unwrap_or(0)];
        let file = disk.open(&path).map_err(failed(&path))?;
        file.read_at(0, &mut start).map_err(failed(&path))?;
        let header = match SegmentHeader::decode(&start) {
            Ok(header) if header.sequence == sequence => Some(header),
            Err(SegmentError::Unused) => {
                disk.remove(&path).map_err(failed(&path))?;
                continue;
            }
            Err(source @ SegmentError::Newer(_)) => {
                return Err(RecoveryError::Newer { path, source });
            }
            Ok(_) | Err(SegmentError::Damaged) => None,
        };
        segments.insert(sequence, OnDisk { bytes: entry.len, header });
    }
    Ok(segments)
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    index: &'a mut Index,
    metrics: &'a Metrics,
    now: Timestamp,
    found: Recovered,
    /// A message whose new place is being read: its states follow.
    moving: Option<(StoredMessage, Places)>,
}

impl Recovery<'_> {
    /// Makes the segments known; gives how far each is valid, where a later one says so.
    fn register(&mut self, segments: &BTreeMap<u32, OnDisk>) -> BTreeMap<u32, (u32, End)> {
        let mut valid_to: BTreeMap<u32, (u32, End)> = BTreeMap::new();
        for (&sequence, segment) in segments {
            let mark = segment.header.map_or(0, |header| header.mark);
            let known = Segment { mark, bytes: segment.bytes, live: 0 };
            self.index.segments.insert(sequence, known);
            match &segment.header {
                Some(header) => {
                    let told = (header.previous_valid_to, header.previous_end);
                    let end = valid_to.entry(header.previous).or_insert(told);
                    if told.0 < end.0 {
                        *end = told;
                    }
                }
                None => {
                    let path = segment::path(sequence);
                    tracing::error!(path, "segment without a legible header is set aside");
                    self.count_damage();
                    self.set_aside_file(sequence, &path);
                }
            }
        }
        valid_to
    }

    fn load_checkpoint(&mut self) -> Position {
        let position = match checkpoint::load(self.disk, self.index, self.now) {
            Ok(Some(position)) => position,
            Ok(None) => Position::default(),
            Err(error) => {
                tracing::warn!(%error, "the checkpoint is of no use: the whole log is read");
                Position::default()
            }
        };
        self.found.last = (position.segment, position.offset);
        position
    }

    fn read_segment(
        &mut self,
        header: &SegmentHeader,
        start: u32,
        end: Option<(u32, End)>,
        is_last: bool,
    ) -> Result<(), RecoveryError> {
        let path = segment::path(header.sequence);
        let mut bytes = disk::read_all(self.disk, &path)
            .map_err(|source| RecoveryError::Io { path: path.clone(), source })?;
        if let Some((to, _)) = end {
            bytes.truncate(to as usize);
        }
        let pieces: Vec<Piece<'_>> = segment::scan(&bytes, header.mark, start as usize).collect();
        // What was synced together with the last record may be torn, if nothing came after.
        let batches = pieces.iter().filter_map(|piece| match piece {
            Piece::Record(found) => Some(found.batch as usize),
            Piece::Gap(_) => None,
        });
        let last_batch = batches.max().unwrap_or(0).max(start as usize);
        let may_be_torn = match end {
            None => is_last,
            Some((_, end)) => end == End::Torn,
        };
        let torn_from = if may_be_torn { last_batch } else { usize::MAX };
        let (mut valid_to, mut last_end) = (start, End::Synced);
        for piece in pieces {
            let range = piece.range();
            let is_torn = range.start >= torn_from && !piece.is_intact();
            if is_torn {
                self.torn(header.sequence, &bytes, range);
                last_end = End::Torn;
                continue;
            }
            // Offsets of a segment fit.
            valid_to = u32::try_from(range.end).unwrap_or(u32::MAX);
            if !piece.is_intact() {
                self.damaged(header.sequence, &bytes, range);
            }
            if let Piece::Record(found) = piece {
                self.scanned(&found);
                self.replay(header.sequence, &found, &bytes)?;
            }
        }
        let (to, last_end) = end.unwrap_or((valid_to, last_end));
        self.found.last = (header.sequence, to);
        self.found.last_end = last_end;
        Ok(())
    }

    fn scanned(&mut self, found: &Found<'_>) {
        self.found.scanned_bytes += found.range.len() as u64;
    }

    fn replay(
        &mut self,
        sequence: u32,
        found: &Found<'_>,
        bytes: &[u8],
    ) -> Result<(), RecoveryError> {
        let (Some(segment), Ok(offset), Ok(meta_bytes)) = (
            NonZeroU32::new(sequence),
            u32::try_from(found.range.start),
            u32::try_from(found.meta.len()),
        ) else {
            return Ok(());
        };
        let content_bytes = found.content_bytes;
        let at = Location { segment, offset, meta_bytes, content_bytes };
        self.moving = None;
        for entry in record::entries(found.meta) {
            match self.entry(entry, at) {
                Ok(()) => {}
                Err(source @ StoredError::Newer(_)) => {
                    let path = segment::path(sequence);
                    return Err(RecoveryError::NewerRecord { path, source });
                }
                Err(StoredError::Damaged(_)) => {
                    self.damaged(sequence, bytes, found.range.clone());
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry<'_>, at: Location) -> Result<(), StoredError> {
        match entry {
            Entry::Message(_, place, json) => {
                let message = StoredMessage::decode(json)?;
                let places = Places { message: at, state: None, files: files(&place) };
                if let Some(placement) = StoredState::fresh(&message.envelope).placement() {
                    self.index.insert_jobs(&message, places, placement, self.now);
                }
            }
            Entry::Moved(id, place, json) => {
                let message = StoredMessage::decode(json)?;
                let places = Places { message: at, state: Some(at), files: files(&place) };
                self.forget_jobs(id);
                self.moving = Some((message, places));
            }
            Entry::State(job, json) => self.state(job, &StoredState::decode(json)?, at),
            Entry::Done(job) => {
                self.index.schedule.remove(job);
            }
        }
        Ok(())
    }

    /// The states of those that are left follow. A job of the checkpoint that has none has ended,
    /// and the segment that said so may be gone.
    fn forget_jobs(&mut self, id: QueueId) {
        for job in self.index.schedule.of_message(id) {
            self.index.schedule.remove(job.id);
        }
    }

    fn state(&mut self, job: JobId, state: &StoredState, at: Location) {
        let schedule = &mut self.index.schedule;
        let Some(placement) = state.placement() else {
            schedule.remove(job);
            return;
        };
        if let Some(&places) = schedule.payload(job) {
            let places = Places { state: Some(at), ..places };
            schedule.replace(job, placement, places, self.now);
        } else if let Some((message, places)) = &self.moving
            && message.id == job.message
            && let Some(entry) = new_entry(message, job.index, *places, placement)
        {
            schedule.insert(entry, self.now);
        }
    }

    /// A job of the checkpoint whose message was in a segment that is gone has ended since:
    /// segments go when nothing in them is needed.
    fn forget_before(&mut self, oldest: u32) {
        let mut from = None;
        loop {
            let page = self.index.schedule.page(from, 1024);
            for job in &page.jobs {
                if job.payload.message.segment.get() < oldest {
                    self.index.schedule.remove(job.id);
                }
            }
            from = page.next;
            if from.is_none() {
                return;
            }
        }
    }

    fn torn(&mut self, sequence: u32, bytes: &[u8], range: Range<usize>) {
        let (offset, octets) = (range.start, range.len());
        tracing::info!(sequence, offset, octets, "the log ends in a record that was never whole");
        self.set_aside(&format!("{sequence:010}-{offset}.torn"), &bytes[range]);
    }

    fn damaged(&mut self, sequence: u32, bytes: &[u8], range: Range<usize>) {
        let (offset, octets) = (range.start, range.len());
        let name = format!("{sequence:010}-{offset}.damaged");
        tracing::error!(
            sequence,
            offset,
            octets,
            copy = name,
            "a place of the log is damaged: it is passed over"
        );
        self.count_damage();
        self.set_aside(&name, &bytes[range]);
    }

    fn count_damage(&mut self) {
        self.found.damages += 1;
        self.metrics.quarantined.inc();
    }

    /// Keeps a copy for whoever wants to look. A full disk does not keep the queue shut.
    fn set_aside(&self, name: &str, bytes: &[u8]) {
        let path = format!("{}/{name}", disk::QUARANTINE);
        if self.disk.open(&path).is_ok() {
            return;
        }
        if let Err(error) = disk::write_whole(self.disk, disk::QUARANTINE, &path, bytes) {
            tracing::error!(path, %error, "cannot set aside a damaged place of the log");
        }
    }

    fn set_aside_file(&self, sequence: u32, path: &str) {
        let aside = format!("{}/{sequence:010}.seg", disk::QUARANTINE);
        if let Err(error) = self.disk.rename(path, &aside) {
            tracing::error!(path, %error, "cannot set aside a damaged segment");
        }
    }
}

fn files(place: &ContentPlace) -> Files {
    if place.front.bytes == 0 && place.rest.bytes == 0 { Files::None } else { Files::Some }
}

impl Piece<'_> {
    fn range(&self) -> Range<usize> {
        match self {
            Self::Record(found) => found.range.clone(),
            Self::Gap(range) => range.clone(),
        }
    }

    fn is_intact(&self) -> bool {
        match self {
            Self::Record(found) => found.content_is_intact,
            Self::Gap(_) => false,
        }
    }
}
