//! What must hold when a segment is read back, whatever the disk made of it. For `fuzz/`.

use crate::record::{self, Entry};
use crate::segment::{self, DATA_START, Piece, SegmentHeader};

/// Reads `octets` as a segment after a crash, and as the meta of a record whose checksum is right.
///
/// # Panics
/// When a promise of reading is broken: pieces follow one another from the beginning and stay
/// within the segment.
pub fn check_segment(octets: &[u8]) {
    let (mark, from) = match SegmentHeader::decode(octets) {
        Ok(header) => (header.mark, DATA_START as usize),
        // A checksum is hard to come by, so records may also stand alone.
        Err(_) => (octets.first_chunk().map_or(0, |mark| u64::from_le_bytes(*mark)), 0),
    };
    let mut at = from;
    for piece in segment::scan(octets, mark, from) {
        let range = match piece {
            Piece::Record(found) => {
                check_meta(found.meta);
                found.range
            }
            Piece::Gap(range) => range,
        };
        assert!(range.start == at && range.end > at && range.end <= octets.len(), "{range:?}");
        at = range.end;
    }
    check_meta(octets);
}

fn check_meta(meta: &[u8]) {
    let mut read = 0;
    for entry in record::entries(meta) {
        read += match entry {
            Entry::Message(_, _, json) | Entry::Moved(_, _, json) => json.len(),
            Entry::State(_, json) => json.len(),
            Entry::Done(_) => 0,
        };
    }
    assert!(read <= meta.len());
}
