//! The embedded durable queue: an append-only log in one directory, for one process.
//!
//! ```text
//! log/0000000042.seg    records: message with content │ state of a job │ end of a job
//! content/ID.body       a body too large for the log, synced before the record that names it
//! content/ID.front      content that outlived its segment: its one copy
//! checkpoint            the index at a place of the log: saves reading, is never needed
//! quarantine/           what was damaged, for whoever wants to look; never deleted by us
//! lock                  held by the one process
//! ```
//!
//! The log is the only truth. The index in memory ([`queue::schedule`]) follows it: one thread
//! appends, syncs once for all who wait, changes the index, then tells them. A record is made from
//! the latest records of its job or not appended, so that an operator, a worker and the janitor
//! need no locks against each other.
//!
//! The crate knows neither SMTP nor when to retry, and reads no clock of its own.
//!
//! Failure behaviour: what failed to be written or synced is answered *unavailable* only when it
//! is certain not to come back: a new segment says durably where the old one ends. A full disk
//! refuses mail while there is still room to record outcomes; when they cannot be recorded, nothing
//! is leased. Damage is found by checksums, copied to `quarantine/`, counted and passed over; what
//! is damaged while the queue is open leaves it when its segment is to be freed.

mod act;
mod any_octets;
mod cache;
mod checkpoint;
mod config;
mod content;
mod disk;
mod draft;
mod index;
mod janitor;
mod lease;
mod list;
mod log_queue;
mod metrics;
mod quarantine;
mod record;
mod recovery;
mod room;
mod segment;
mod shared;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

#[doc(hidden)]
pub use any_octets::check_segment;
pub use config::Config;
pub use log_queue::{LogQueue, OpenError};
pub use metrics::Metrics;
pub use snapshot::{AtRest, LogFile, Snapshot};

/// Reads the octets of a segment as recovery does; tells how many entries it has.
#[cfg(test)]
pub(crate) fn scan_records(segment: &[u8]) -> usize {
    let Ok(header) = segment::SegmentHeader::decode(segment) else { return 0 };
    let pieces = segment::scan(segment, header.mark, segment::DATA_START as usize);
    pieces.map(|piece| piece.entries()).sum()
}
